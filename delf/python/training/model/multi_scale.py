"""Local and global features over a pyramid of scales, as TensorFlow code.

Everything here takes a batch of images of one size; one image is a batch of
one. Image sizes and numbers of scales are free, so that a function traced once
serves all.
"""

import tensorflow as tf

from delf.python.training.model import selecting


def scaled_size(height, width, scale):
  """Returns int32 [2], size of an image at a scale, rounded half to even."""
  size = tf.cast(tf.stack([height, width]), tf.float32)
  return tf.cast(tf.round(size * scale), tf.int32)


def resize(images, scale):
  """Returns [B, H', W', 3] float32: images at a scale, bilinear."""
  shape = tf.shape(images)
  return tf.image.resize(images, scaled_size(shape[1], shape[2], scale))


def local(
  images, image_scales, selection, model_fn, receptive=selecting.RESNET
):
  """Returns the local features of all scales, before the last selection.

  Args:
    images: [B, H, W, 3] float32, normalised.
    image_scales: [S] float32.
    selection: Selection.
    model_fn: Function of [B, h, w, 3] images that gives attention [B, y, x, 1],
      features [B, y, x, D] and perhaps offsets [B, y, x, 2].
    receptive: Receptive of the feature map.

  Returns:
    Local.
  """

  def step(index, arrays):
    maps = model_fn(resize(images, image_scales[index]))
    found = selecting.candidates(
      maps, image_scales[index], selection, receptive
    )
    return _write(arrays, index, found)

  number = tf.size(image_scales)
  return _concatenate(_loop(number, step, _arrays(number)))


def global_(images, image_scales, indices, model_fn):
  """Returns global descriptors at some scales.

  Args:
    images: [B, H, W, 3] float32, normalised.
    image_scales: [S] float32.
    indices: [G] int32, positions in `image_scales`, at least one. Their order
      and repetitions do not matter.
    model_fn: Function of [B, h, w, 3] images that gives [B, D].

  Returns:
    [B, G', D] float32, a descriptor per scale in the order of `image_scales`.
  """
  used = tf.where(_is_used(image_scales, indices))[:, 0]
  scales = tf.gather(image_scales, used)

  def step(index, arrays):
    (array,) = arrays
    return (array.write(index, model_fn(resize(images, scales[index]))),)

  number = tf.size(scales)
  (array,) = _loop(number, step, (_descriptor_array(number),))
  return _stack(array, indices)


def local_and_global(
  images,
  image_scales,
  selection,
  indices,
  model_fns,
  receptive=selecting.RESNET,
):
  """Returns local features of all scales and global descriptors of some.

  The network runs once per scale, and its global part only where it is used.

  Args:
    images: [B, H, W, 3] float32, normalised.
    image_scales: [S] float32.
    selection: Selection.
    indices: [G] int32, as in `global_`.
    model_fns: Two functions of [B, h, w, 3] images: one gives (descriptor
      [B, D'], attention [B, y, x, 1], features [B, y, x, D] and perhaps offsets
      [B, y, x, 2]), the other the same without the descriptor.
    receptive: Receptive of the feature map.

  Returns:
    Local, and descriptors as `global_` returns them.
  """
  full_fn, local_fn = model_fns
  is_used = _is_used(image_scales, indices)
  # Position of each used scale among those used.
  positions = tf.cumsum(tf.cast(is_used, tf.int32), exclusive=True)

  def step(index, arrays):
    scaled = resize(images, image_scales[index])
    *local_arrays, descriptors = arrays
    *maps, descriptors = tf.cond(
      is_used[index],
      lambda: _with_global(full_fn(scaled), descriptors, positions[index]),
      lambda: (*local_fn(scaled), descriptors),
    )
    found = selecting.candidates(
      maps, image_scales[index], selection, receptive
    )
    return (*_write(local_arrays, index, found), descriptors)

  number = tf.size(image_scales)
  used = tf.reduce_sum(tf.cast(is_used, tf.int32))
  start = (*_arrays(number), _descriptor_array(used))
  *arrays, descriptors = _loop(number, step, start)
  return _concatenate(arrays), _stack(descriptors, indices)


def _with_global(outputs, descriptors, position):
  descriptor, *maps = outputs
  return (*maps, descriptors.write(position, descriptor))


def _is_used(image_scales, indices):
  """Returns [S] bool: whether each scale is among the indices."""
  positions = tf.range(tf.size(image_scales))
  indices = tf.convert_to_tensor(indices, tf.int32)
  return tf.reduce_any(positions[:, None] == indices[None, :], axis=1)


def _loop(number, step, arrays):
  """Calls `step(index, arrays) -> arrays` for each index in turn."""
  _, arrays = tf.while_loop(
    lambda index, _: index < number,
    lambda index, arrays: (index + 1, step(index, arrays)),
    (tf.constant(0), tuple(arrays)),
    # One scale keeps the processor busy, and takes the memory of one.
    parallel_iterations=1,
  )
  return arrays


def _arrays(number):
  """Returns a tf.TensorArray for each field of Local, filled by scale."""
  return tuple(
    tf.TensorArray(dtype, number, infer_shape=False)
    for dtype in (tf.float32, tf.float32, tf.float32, tf.float32, tf.int32)
  )


def _write(arrays, index, values):
  return tuple(
    array.write(index, value)
    for array, value in zip(arrays, values, strict=True)
  )


def _concatenate(arrays):
  return selecting.Local(*(array.concat() for array in arrays))


def _descriptor_array(number):
  return tf.TensorArray(tf.float32, number, infer_shape=False)


def _stack(array, indices):
  """Returns [B, G, D] of descriptors [B, D] by scale."""
  check = tf.debugging.assert_positive(
    tf.size(indices), "expected at least one global scale, received none"
  )
  with tf.control_dependencies([check] if check is not None else []):
    return tf.transpose(array.stack(), [1, 0, 2])
