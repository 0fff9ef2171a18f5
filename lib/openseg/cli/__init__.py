"""The commands: they parse, dispatch, and turn expected failures into one line and an exit code."""
