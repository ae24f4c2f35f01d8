"""What the embedded model must reach, and whether it does."""

import dataclasses

from benchmarks.shared import oxford_retrieval, pair_results

LEAST_PRECISION = 0.95
TIMES_RANDOM = 5


@dataclasses.dataclass(frozen=True)
class Line:
  """A requirement.

  Attributes:
    name: Words for what is measured.
    value: Of the model.
    needed: What it must be.
    above: Whether it must be above and not only as much.
    why: Words for where `needed` comes from.
  """

  name: str
  value: float
  needed: float
  above: bool
  why: str

  @property
  def is_reached(self):
    """Whether the model reaches it."""
    if self.above:
      return self.value > self.needed
    return self.value >= self.needed


def of_pairs(model, root_sift):
  """Returns the Lines of pairs.

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
  """Returns the Lines of retrieval.

  Args:
    model: {way: {protocol: (mAP, ...)}} of the model.
    baselines: {name: {protocol: (mAP, ...)}}, what is to be surpassed.
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
  """Prints the requirements of a model, and which are reached."""
  print(f"\n{label:44}{'model':>7} {'needed':>9}")
  for line in lines:
    sign = ">" if line.above else ">="
    needed = f"{sign} {line.needed:.3f}"
    reached = "reached" if line.is_reached else "not reached"
    print(
      f"{line.name:44}{line.value:7.3f} {needed:>9}  {reached:12} ({line.why})"
    )
