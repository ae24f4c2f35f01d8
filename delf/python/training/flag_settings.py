"""The settings that the flags of the script that trains say."""

from absl import flags

FLAGS = flags.FLAGS

# What --debug sets where the flag is not given: few photos, few steps, and all
# of it written.
_DEBUG = {
  "batch_size": 4,
  "max_iters": 100,
  "report_every": 10,
  "save_every": 1,
}


def settings_of_flags():
  """Returns the settings.Settings that the flags say."""
  from delf.python.training.supervised import settings

  return settings.Settings(
    logdir=FLAGS.logdir,
    data=_data(settings),
    network=network(settings),
    learning=settings.Learning(
      initial_lr=FLAGS.initial_lr,
      max_iters=_flag("max_iters"),
      warm_up=FLAGS.warm_up,
      attention_loss_weight=FLAGS.attention_loss_weight,
      reconstruction_loss_weight=FLAGS.reconstruction_loss_weight,
      seed=FLAGS.seed,
    ),
    reporting=settings.Reporting(
      _flag("report_every"), _flag("save_every"), FLAGS.validate_every
    ),
    execution=settings.Execution(
      devices=tuple(FLAGS.devices) if FLAGS.devices else None,
      xla=FLAGS.xla,
      eager=FLAGS.debug,
    ),
  )


def _flag(name):
  """Returns the value of a flag, or what --debug sets if it is not given."""
  flag = FLAGS[name]
  return (
    _DEBUG[name] if FLAGS.debug and flag.using_default_value else flag.value
  )


def _data(settings):
  return settings.Data(
    train_file_pattern=FLAGS.train_file_pattern,
    validation_file_pattern=FLAGS.validation_file_pattern,
    num_classes=_num_classes(settings),
    image_size=FLAGS.image_size,
    batch_size=_flag("batch_size"),
    use_augmentation=FLAGS.use_augmentation,
  )


def _num_classes(settings):
  from delf.python.training.supervised import data_source

  if FLAGS.num_classes is None:
    return settings.CLASSES[FLAGS.dataset_version]
  if FLAGS.num_classes == 0:
    return data_source.classes_beside(FLAGS.train_file_pattern)
  return FLAGS.num_classes


def network(settings):
  """Returns the settings.Network that the flags say; takes that module."""
  return settings.Network(
    delg=FLAGS.delg_global_features,
    backbone=FLAGS.backbone,
    block3_strides=FLAGS.block3_strides,
    gem_power=FLAGS.delg_gem_power,
    embedding_layer_dim=FLAGS.delg_embedding_layer_dim,
    scale_factor_init=FLAGS.delg_scale_factor_init,
    arcface_margin=FLAGS.delg_arcface_margin,
    use_autoencoder=FLAGS.use_autoencoder,
    autoencoder_dimensions=FLAGS.autoencoder_dimensions,
    local_feature_map_channels=FLAGS.local_feature_map_channels,
    imagenet_checkpoint=FLAGS.imagenet_checkpoint,
    initial_weights=FLAGS.initial_checkpoint,
    precision=FLAGS.precision,
    normalization=FLAGS.normalization,
  )
