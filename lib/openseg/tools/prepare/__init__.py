"""The preparation programs: public archives -> folders that ``main.py`` reads, and SegFix ground truth."""
