"""How the original makes a training sample and a test input, written out literally and slowly (the oracle of parity).

Facts: images by OpenCV as BGR, labels by Pillow; every step works on whole arrays, in the order of the dataset.
``draws`` are the random numbers of a sample: the same ones that ``openseg.datasets.transforms`` draws.
"""

import cv2
import numpy as np
import torch
from PIL import Image


def read(image_path, label_path):
    image = cv2.imread(str(image_path), cv2.IMREAD_COLOR)
    return image, np.array(Image.open(label_path).convert("P"))


def encode(labels, label_list, reduce_zero=False):
    """File ids -> train IDs by one mask a class; all others are 255."""
    if reduce_zero:
        return np.where(labels == 0, 255, labels - 1).astype(np.uint8)
    encoded = np.full(labels.shape, 255, np.uint8)
    for train_id, file_id in enumerate(label_list):
        encoded[labels == file_id] = train_id
    return encoded


def resize(image, labels, size):
    width_height = (size[1], size[0])
    return (
        cv2.resize(image, width_height, interpolation=cv2.INTER_CUBIC),
        cv2.resize(labels, width_height, interpolation=cv2.INTER_NEAREST),
    )


def flip(image, labels, pairs):
    image, labels = cv2.flip(image, 1), cv2.flip(labels, 1)
    swapped = labels.copy()
    for left, right in pairs:
        swapped[labels == left] = right
        swapped[labels == right] = left
    return image, swapped


def brighten(image, shift):
    return np.clip(np.around(image.astype(np.float32) + shift), 0, 255).astype(np.uint8)


def normalize(image, mean, std, scale):
    """BGR ``uint8[H, W, 3]`` -> ``float32[3, H, W]`` with the statistics applied to the channels as they are."""
    tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float()
    tensor = tensor.div(scale)
    for channel in range(3):
        tensor[channel].sub_(mean[channel]).div_(std[channel])
    return tensor


def draw(rng, size, crop, scale_range, aspect_range, flip_probability, flip_first, brightness, fit):
    """The random numbers of one sample, in the order in which ours draws them."""
    flipped = flip_first and rng.random() < flip_probability
    if fit == "short side 520":
        size = tuple(round(length * 520 / min(size)) for length in size)
    elif fit is not None:
        size = fit
    scale = aspect = 1.0
    if scale_range is not None:
        scale, aspect = rng.uniform(*scale_range), rng.uniform(*aspect_range)
        size = (int(size[0] * scale / aspect**0.5), int(size[1] * scale * aspect**0.5))
    places = []
    for length, wanted in zip(size, crop, strict=True):
        kept = min(length, wanted)
        places.append((int(rng.integers(0, length - kept + 1)), int(rng.integers(0, wanted - kept + 1)), kept))
    if not flip_first:
        flipped = rng.random() < flip_probability
    return flipped, size, places, int(rng.integers(-brightness, brightness + 1))


def training_sample(image, labels, crop, draws, flip_first, fit, pairs, stats):
    """Network input ``float32[3, h, w]`` and labels ``uint8[h, w]`` of one sample."""
    flipped, size, places, shift = draws
    if flip_first and flipped:
        image, labels = flip(image, labels, pairs)
    if fit == "short side 520":
        image, labels = resize(image, labels, tuple(round(x * 520 / min(image.shape[:2])) for x in image.shape[:2]))
    elif fit is not None:
        image, labels = resize(image, labels, fit)
    if size != image.shape[:2]:
        image, labels = resize(image, labels, size)
    (top, up, height), (left, lead, width) = places
    image = image[top : top + height, left : left + width]
    labels = labels[top : top + height, left : left + width]
    if not flip_first and flipped:
        image, labels = flip(image, labels, pairs)
        lead = crop[1] - lead - width
    image = brighten(image, shift)
    tensor = torch.zeros(3, *crop)
    tensor[:, up : up + height, lead : lead + width] = normalize(image, *stats)
    padded = np.full(crop, 255, np.uint8)
    padded[up : up + height, lead : lead + width] = labels
    return tensor, padded


def segfix_maps(labels, depth, angle_codes, flipped, places, crop):
    """Boundary mask and direction of a SegFix crop, pixel values by the definitions; 255 where nothing is known.

    A mirrored angle is 180 degrees minus it for every angle; the original left 0 and 180 degrees as they were.
    """
    (top, up, height), (left, lead, width) = places
    window = (slice(top, top + height), slice(left, left + width))
    labels, depth, angles = labels[window], depth[window].astype(int), 2.0 * angle_codes[window] - 180
    if flipped:
        labels, depth, angles = (values[:, ::-1] for values in (labels, depth, angles))
        angles = 180 - angles
        lead = crop[1] - lead - width
    mask, direction = np.full(crop, 255, np.uint8), np.full(crop, 255, np.uint8)
    for row in range(height):
        for column in range(width):
            if labels[row, column] == 255:
                continue
            place = (up + row, lead + column)
            mask[place] = 0 <= depth[row, column] <= 5
            distances = [abs((angles[row, column] - (45 * label - 180) + 180) % 360 - 180) for label in range(8)]
            direction[place] = int(np.argmin(distances))
    return mask, direction
