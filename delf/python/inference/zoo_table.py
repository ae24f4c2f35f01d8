"""The published models and files of the DELF project, as data."""

import dataclasses
import re

EXTRACTION = "extraction model"
DETECTOR = "detector"
CODEBOOK = "codebook"
WEIGHTS = "weights"

# Pattern of the file that each kind is loaded by.
_WANTED = {
  EXTRACTION: "saved_model.pb",
  DETECTOR: "saved_model.pb",
  CODEBOOK: "[!.]*.index",
  WEIGHTS: "[!.]*.h5",
}

EMBEDDED = "delf-compact"
EMBEDDED_DETECTOR = "delf-boxes"

_BUCKET = "https://storage.googleapis.com/delf/"

# As the published configurations write them; 0.3536 and 1.4142 are of the
# older ones (DELF), the longer forms of the newer ones (DELG).
_DELF_SCALES = (0.25, 0.3536, 0.5, 0.7071, 1.0, 1.4142, 2.0)
_DELG_SCALES = (0.25, 0.35355338, 0.5, 0.70710677, 1.0, 1.4142135, 2.0)


@dataclasses.dataclass(frozen=True)
class Settings:
  """Published extraction settings of a model, in terms of `DelfConfig`."""

  image_scales: tuple
  score_threshold: float | None = None  # None: no local features.
  global_scales: tuple | None = None  # None: no global descriptor.
  pca_dim: int | None = None  # None: no PCA of local features.
  layer_name: str = ""
  max_image_size: int = -1


@dataclasses.dataclass(frozen=True)
class Artefact:
  """A model or file that is known by name."""

  name: str
  kind: str
  purpose: str
  settings: Settings | None = None
  # Why it cannot be had, and what to use instead; empty if it can.
  unavailable: str = ""

  @property
  def url(self):
    """Address of the archive, or None where there is none to download."""
    if self.is_embedded or self.unavailable:
      return None
    return f"{_BUCKET}{self.name}.tar.gz"

  @property
  def is_embedded(self):
    """Whether it comes in the package."""
    return self.name in (EMBEDDED, EMBEDDED_DETECTOR)

  @property
  def wanted(self):
    """Pattern of the file that it is loaded by, somewhere in its folder."""
    return _WANTED[self.kind]

  @property
  def alias(self):
    """The name without its date: `r50delg_gld` of `r50delg_gld_20200814`."""
    return re.sub(r"_\d{8}$", "", self.name)


def _delf(pca_dim):
  return Settings(
    _DELF_SCALES, 100.0, pca_dim=pca_dim, layer_name="resnet_v1_50/block3"
  )


def _delg(score_threshold):
  return Settings(_DELG_SCALES, score_threshold, (3, 4, 5), max_image_size=1024)


def _codebook(photos, words):
  other = {"RParis6k": "ROxford5k", "ROxford5k": "RParis6k"}[photos]
  return Artefact(
    f"{photos.lower()}_codebook_{words}",
    CODEBOOK,
    f"{words} words of 128-D DELF features of {photos}, for use on {other}",
  )


_ARTEFACTS = (
  Artefact(EMBEDDED, EXTRACTION, "local and global, small, in the package"),
  Artefact(
    "delf_gld_20190411",
    EXTRACTION,
    "DELF of 2019, Google Landmarks v1: matching (PCA to 40), "
    "Detect-to-Retrieve (PCA to 128)",
    _delf(40),
  ),
  Artefact(
    "delf_v1_20171026",
    EXTRACTION,
    "DELF of 2017, Landmarks Clean and Full: the model of the first paper",
    _delf(40),
  ),
  Artefact(
    "r50delg_gld_20200814",
    EXTRACTION,
    "DELG, ResNet-50, Google Landmarks v1: local and global",
    _delg(175.0),
  ),
  Artefact(
    "r101delg_gld_20200814",
    EXTRACTION,
    "DELG, ResNet-101, Google Landmarks v1: local and global",
    _delg(166.1),
  ),
  Artefact(
    "r50delg_gldv2clean_20200914",
    EXTRACTION,
    "DELG, ResNet-50, Google Landmarks v2 clean: local and global",
    _delg(454.6),
  ),
  Artefact(
    "r101delg_gldv2clean_20200914",
    EXTRACTION,
    "DELG, ResNet-101, Google Landmarks v2 clean: local and global",
    _delg(357.48),
  ),
  Artefact(
    "rn101_af_gldv2clean_20200814",
    EXTRACTION,
    "ResNet-101 with ArcFace, Google Landmarks v2 clean: global only",
    Settings(
      (0.70710677, 1.0, 1.4142135), global_scales=(), max_image_size=1024
    ),
  ),
  Artefact(
    "delg_gld_20200520",
    EXTRACTION,
    "DELG of May 2020, ResNet-50, Google Landmarks v1: retired",
    unavailable="retired by its authors; use r50delg_gld_20200814",
  ),
  Artefact(
    "google/delf/1",
    EXTRACTION,
    "DELF as a TensorFlow 1 Hub module (tfhub.dev/google/delf/1)",
    unavailable="a TensorFlow 1 Hub module, whose form and fixed PCA are not "
    "supported; use delf_gld_20190411",
  ),
  Artefact(
    EMBEDDED_DETECTOR, DETECTOR, "boxes of landmarks, small, in the package"
  ),
  Artefact(
    "d2r_frcnn_20190411",
    DETECTOR,
    "boxes of landmarks, Faster R-CNN: Detect-to-Retrieve",
  ),
  Artefact(
    "d2r_mnetssd_20190411",
    DETECTOR,
    "boxes of landmarks, MobileNet SSD: the lighter one",
  ),
  _codebook("RParis6k", 65536),
  _codebook("ROxford5k", 65536),
  _codebook("RParis6k", 1024),
  _codebook("ROxford5k", 1024),
  Artefact(
    "resnet50_imagenet_weights",
    WEIGHTS,
    "ResNet-50 of ImageNet without its top (Keras .h5): start of a training",
  ),
)

ARTEFACTS = {artefact.name: artefact for artefact in _ARTEFACTS}
ALIASES = {
  artefact.alias: artefact.name
  for artefact in _ARTEFACTS
  if artefact.alias != artefact.name
}
