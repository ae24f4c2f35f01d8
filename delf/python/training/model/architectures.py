"""Networks of Keras that describe a photo: what there is, and their weights.

Importing this loads neither Keras nor TensorFlow.
"""

import glob
import os

from delf.python import errors

# What a network was trained on, as (offset, scale) of RGB values in [0, 255]:
# the modes of Keras' `imagenet_utils.preprocess_input`.
TORCH = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
TF = ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5))
RAW = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
CAFFE = None  # BGR less the mean, which is what the loader gives.

# Architecture -> size of its descriptor, and what it was trained on.
ARCHITECTURES = {
  "ResNet50": (2048, CAFFE),
  "ResNet101": (2048, CAFFE),
  "ResNet101V2": (2048, TF),
  "ResNet152": (2048, CAFFE),
  "VGG16": (512, CAFFE),
  "VGG19": (512, CAFFE),
  "DenseNet121": (1024, TORCH),
  "DenseNet169": (1664, TORCH),
  "DenseNet201": (1920, TORCH),
  "EfficientNetB5": (2048, RAW),
  "EfficientNetB7": (2560, RAW),
}


def network(architecture, pretrained, data_root):
  """Makes a network that ends in a feature map.

  Args:
    architecture: A key of ARCHITECTURES.
    pretrained: Whether it has weights of ImageNet: of a file
      `<architecture>*notop*.h5` (in lower case) in `data_root` or in
      `networks/` there, else those that Keras has or downloads.
    data_root: Folder of such files.

  Returns:
    keras.Model of images of any size.

  Raises:
    InputError: If weights cannot be had.
  """
  import keras

  make = getattr(keras.applications, architecture)
  options = {"include_top": False, "input_shape": (None, None, 3)}
  if not pretrained:
    return make(weights=None, **options)
  file = f"{architecture.lower()}[_-]*notop*.h5"
  found = sorted(
    path
    for folder in (data_root, os.path.join(data_root, "networks"))
    for path in glob.glob(os.path.join(glob.escape(folder), file))
  )
  weights = found[0] if found else "imagenet"
  try:
    return make(weights=weights, **options)
  except Exception as error:  # Keras raises bare ones where it is offline.
    where = found[0] if found else os.path.join(data_root, file)
    raise errors.InputError(
      f"ImageNet weights of {architecture}, in a file or from Keras' site",
      f"none ({errors.one_line(error)}); --pretrained=false goes without",
      where,
    ) from None
