"""Requirements of the embedded model, and whether it meets them."""

import dataclasses

from benchmarks.shared import oxford_retrieval, pair_results

LEAST_PRECISION = 0.95
TIMES_RANDOM = 5


@dataclasses.dataclass(frozen=True)
class Line:
  """A requirement.

  Attributes:
    name: Description of the figure.
    value: Figure of the model.
    needed: Lower limit.
    above: Whether the figure must exceed the limit, not only reach it.
    why: Source of the limit.
  """

  name: str
  value: float
  needed: float
  above: bool
  why: str

  @property
  def is_reached(self):
    """Whether the model meets the requirement."""
    if self.above:
      return self.value > self.needed
    return self.value >= self.needed


def of_pairs(model, root_sift):
  """Return the requirements for pairs.

  Args:
    model: {group: {figure: Value}} of the model.
    root_sift: The same of RootSIFT.
  """
  own, other = model["all"], root_sift["all"]
  lines = [
    Line("AP of all pairs", own["AP"].value, LEAST_PRECISION, False, "set")
  ]
  for figure in ("AP", "solved"):
    name = f"{figure} of all pairs"
    values = own[figure].value, other[figure].value
    lines.append(Line(name, *values, False, "RootSIFT"))
  for group in pair_results.POSE_GROUPS:
    for limit in pair_results.POSE if group in model else ():
      figure = f"AUC {limit:g}"
      values = model[group][figure].value, root_sift[group][figure].value
      name = f"pose AUC at {limit} degrees, {group}"
      lines.append(Line(name, *values, False, "RootSIFT"))
  return lines


def of_retrieval(model, baselines, random):
  """Return the requirements for retrieval.

  Args:
    model: {way: {protocol: (mAP, ...)}} of the model.
    baselines: {name: {protocol: (mAP, ...)}}, which must be surpassed.
    random: The same of random rankings.
  """
  lines = []
  for protocol in ("medium", "hard"):
    ways = [way for way in oxford_retrieval.VERIFIED if way in model]
    for label, baseline in baselines.items() if ways else ():
      name = f"mAP {protocol}, better of verified ways"
      best = max(model[way][protocol][0] for way in ways)
      lines.append(Line(name, best, baseline[protocol][0], True, label))
    needed = TIMES_RANDOM * random[protocol][0]
    value = model[oxford_retrieval.GLOBAL][protocol][0]
    name = f"mAP {protocol}, global alone"
    lines.append(Line(name, value, needed, False, f"{TIMES_RANDOM} x random"))
  return lines


def print_lines(label, lines):
  """Print the requirements of a model, and which are reached."""
  print(f"\n{label:44}{'model':>7} {'needed':>9}")
  for line in lines:
    sign = ">" if line.above else ">="
    needed = f"{sign} {line.needed:.3f}"
    reached = "reached" if line.is_reached else "not reached"
    print(
      f"{line.name:44}{line.value:7.3f} {needed:>9}  {reached:12} ({line.why})"
    )
