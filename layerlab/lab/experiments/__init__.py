"""The experiments, by name. Each is one short file.

Responsible for the list. Must not know how one is run.
"""

from typing import Final

from layerlab.lab.experiment import Experiment
from layerlab.lab.experiments.burn_down import BurnDown
from layerlab.lab.experiments.censorship import Censorship
from layerlab.lab.experiments.collusion import Collusion
from layerlab.lab.experiments.disappearance import Disappearance
from layerlab.lab.experiments.double_spend import DoubleSpend
from layerlab.lab.experiments.malicious_upgrade import MaliciousUpgrade
from layerlab.lab.experiments.rule_change import RuleChange
from layerlab.lab.experiments.stake_stops import StakeStops
from layerlab.lab.experiments.theft import Theft

_ALL: Final[tuple[Experiment, ...]] = (
    Disappearance(),
    Theft(),
    Censorship(),
    StakeStops(),
    DoubleSpend(),
    Collusion(),
    MaliciousUpgrade(),
    RuleChange(),
    BurnDown(),
)
EXPERIMENTS: Final = {experiment.name: experiment for experiment in _ALL}
