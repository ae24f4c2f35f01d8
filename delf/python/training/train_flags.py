"""Flags of the script that trains."""

from absl import flags


def define_flags():
  """Defines the flags."""
  _define_run()
  _define_reports()
  _define_data()
  _define_network()
  _define_learning()


def _define_run():
  flags.DEFINE_boolean(
    "debug",
    False,
    "A run for a debugger: nothing is compiled; 100 steps of batch 4, saved "
    "each and reported every 10, where flags do not say otherwise.",
  )
  flags.DEFINE_string(
    "logdir", "/tmp/delf", "Folder of the run; one that is there goes on."
  )
  flags.DEFINE_list(
    "devices",
    None,
    "Devices that share a batch, such as GPU:0,GPU:1; without it all GPUs do.",
  )
  flags.DEFINE_boolean(
    "xla",
    False,
    "Whether XLA compiles the step; not with --normalization=synchronized on "
    "several devices.",
  )
  flags.DEFINE_enum(
    "precision",
    "float32",
    ["float32", "mixed_bfloat16"],
    "What layers compute with; weights and losses are float32.",
  )
  flags.DEFINE_boolean(
    "deterministic", False, "Whether GPUs compute the same each time; slower."
  )


def _define_reports():
  flags.DEFINE_integer(
    "report_every", 100, "Steps from summary to summary.", lower_bound=1
  )
  flags.DEFINE_integer(
    "save_every", 1000, "Steps from checkpoint to checkpoint.", lower_bound=1
  )
  flags.DEFINE_integer(
    "validate_every",
    1000,
    "Steps from validation to validation.",
    lower_bound=1,
  )
  flags.DEFINE_boolean(
    "overfit_one_batch",
    False,
    "Whether, in place of a run, one batch is to be learnt by heart: a test of "
    "settings and labels, with status 1 where it fails. It keeps nothing.",
  )


def _define_data():
  flags.DEFINE_string(
    "train_file_pattern",
    "/tmp/data/train*",
    "Pattern of the TFRecords to train on.",
  )
  flags.DEFINE_string(
    "validation_file_pattern",
    "/tmp/data/validation*",
    "Pattern of the TFRecords to validate on; empty for none.",
  )
  flags.DEFINE_enum(
    "dataset_version",
    "gld_v1",
    ["gld_v1", "gld_v2", "gld_v2_clean"],
    "Google Landmarks that the TFRecords are of, which says how many classes "
    "there are; not looked at with --num_classes.",
  )
  flags.DEFINE_integer(
    "num_classes",
    None,
    "Number of classes of data of your own; 0: what labels.json beside the "
    "TFRecords has.",
    lower_bound=0,
  )
  flags.DEFINE_integer("seed", 0, "Of random weights, order and crops.")
  flags.DEFINE_integer("batch_size", 32, "Photos of a step, on all devices.")
  flags.DEFINE_integer(
    "image_size",
    321,
    "Side of the square that photos are cropped and scaled to, pixels.",
  )
  flags.DEFINE_boolean("use_augmentation", True, "Whether to crop at random.")


def _define_network():
  flags.DEFINE_string(
    "backbone", "resnet50", "Backbone: resnet50, resnet101 or compact."
  )
  flags.DEFINE_boolean(
    "block3_strides", True, "Whether every second local feature is kept."
  )
  flags.DEFINE_string(
    "imagenet_checkpoint", None, "ImageNet weights (.h5) to start from."
  )
  flags.DEFINE_string(
    "initial_checkpoint",
    None,
    "Weights of a model to start from, such as the delf_weights of a run; "
    "classifiers may be of other classes.",
  )
  flags.DEFINE_boolean(
    "delg_global_features", False, "Whether to train DELG in place of DELF."
  )
  flags.DEFINE_float("delg_gem_power", 3.0, "Power of DELG's GeM pooling.")
  flags.DEFINE_integer(
    "delg_embedding_layer_dim", 2048, "Size of DELG's global descriptor."
  )
  flags.DEFINE_float(
    "delg_scale_factor_init", 45.25, "Factor of DELG's cosines at first."
  )
  flags.DEFINE_float(
    "delg_arcface_margin", 0.1, "ArcFace margin of DELG in radians."
  )
  flags.DEFINE_boolean(
    "use_autoencoder",
    True,
    "Whether local features are coded by an autoencoder.",
  )
  flags.DEFINE_float(
    "autoencoder_dimensions", 128, "Size of the autoencoder's codes."
  )
  flags.DEFINE_float(
    "local_feature_map_channels",
    1024,
    "Channels of what the autoencoder reconstructs.",
  )
  flags.DEFINE_enum(
    "normalization",
    "batch",
    ["batch", "synchronized", "frozen"],
    "Statistics of batch normalisation: of each device's share, of the batch, "
    "or the stored ones.",
  )


def _define_learning():
  flags.DEFINE_float(
    "initial_lr", 0.01, "Learning rate; it falls to 0 linearly."
  )
  flags.DEFINE_integer("max_iters", 500000, "Steps of the run, all told.")
  flags.DEFINE_integer(
    "warm_up", 0, "Steps in which the learning rate rises to where it would be."
  )
  flags.DEFINE_float(
    "attention_loss_weight", 1.0, "Weight of the attention's loss."
  )
  flags.DEFINE_float(
    "reconstruction_loss_weight", 10.0, "Weight of the autoencoder's loss."
  )
