"""Is the canary worse than production, by more than a bound? A test that may be looked at any time.

    comparison = Comparison(margin=0.03, odds=9.0)
    comparison.see(CANARY, 1.0)          one call for each person, as soon as their score is final
    comparison.see(PRODUCTION, 0.0)
    comparison.is_worse(alpha=0.001)     after every call, as often as you like

**The unit is the person.** Turns of one person resemble each other, and a few people make most of
the turns. So each person gives one score between 0 and 1 to a comparison, of a fixed stretch of
their turns (`window_of`): a heavy user weighs as much as anybody.

**The bet.** People are taken in blocks, `c` of the canary and `p` of production, about when they
used it. A block multiplies a wealth, which begins at 1, by

    product over the canary (1 + l/c * (x - m - margin))
    * product over production (1 - l/p * (x - m))

with numbers l and m that were chosen before the block's scores were known, so that no factor can be
negative. If the people of the canary have the mean a in this block, those of production b, and
a <= b + margin, then the expected product is at most

    (1 + l/c * u)^c * (1 - l/p * u)^p     with u = b - m.

The logarithm of that is concave in u, 0 at u = 0, and so is its slope there: it is never above 0.
So the wealth can't be expected to grow while the canary keeps its bound, whatever the distribution
of the scores, whatever moves both arms at once, and however few people there are. By Ville's
inequality it ever reaches 1/alpha with a probability of at most alpha. No approximation for large
numbers is made.

The numbers l and m only decide how fast a real regression is found. Several pairs bet side by side,
and their mean wealth is the evidence: a mean of such processes is one again.

What it rests on: who gets the canary is drawn at random and independent of what people do; people
of a block do not influence one another, other than by what moves both arms at once.

Waudby-Smith, Ramdas: Estimating means of bounded random variables by betting. JRSS B 86 (2024).
Turner, Ly, Grünwald: Generic E-variables for exact sequential k-sample tests that allow for
optional stopping. Journal of Statistical Planning and Inference 230 (2024).
Johari, Koomen, Pekelis, Walsh: Always valid inference. Operations Research 70 (2022).
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Final, Literal

Side = Literal["canary", "production"]
CANARY: Final = "canary"
PRODUCTION: Final = "production"

MOST_WAITING = 400
_MOST_ODDS = 50.0
_PATIENT_CANARY = 10
# A quantity is scored from half of the usual to four times of it: one octave below, two above.
_OCTAVES_BELOW, _OCTAVES = 1.0, 3.0
USUAL_SCORE = _OCTAVES_BELOW / _OCTAVES
"""What `score_of_ratio` gives to the usual itself."""
SCALED_BY = 5
"""So many people of production say what is usual."""
# What production is thought to be before anybody is seen, as if so many people had said so.
_GUESS_WEIGHT = 2.0


@dataclass(frozen=True, slots=True)
class Bet:
    """How a share of the wealth is bet.

    `hopes`: for which regression, as a share of the way from the bound to 1. `stake`: which share
    of the largest possible bet.
    """

    hopes: float
    stake: float


BETS = (
    Bet(hopes=1.0, stake=0.95),
    Bet(hopes=0.8, stake=0.65),
    Bet(hopes=0.4, stake=0.9),
    Bet(hopes=0.4, stake=0.4),
    Bet(hopes=0.15, stake=0.9),
    Bet(hopes=0.15, stake=0.4),
    Bet(hopes=0.15, stake=0.15),
)


@dataclass(slots=True)
class Comparison:
    """The evidence that the canary's mean score is above production's by more than `margin`.

    Scores lie in [0, 1], and more is worse. `odds`: how many people of production are expected for
    one of the canary. `guess`: production's mean, as far as it is known before. Both only decide
    how fast it finds something. `as_dict` and `Comparison(**stored)` keep it between looks.
    """

    margin: float
    odds: float
    guess: float = 0.05
    wealth_logs: list[float] = field(default_factory=lambda: [0.0] * len(BETS))
    peak_log: float = 0.0
    canary_waiting: list[float] = field(default_factory=list)
    production_waiting: list[float] = field(default_factory=list)
    canary_people: int = 0
    canary_sum: float = 0.0
    production_people: int = 0
    production_sum: float = 0.0

    def see(self, arm: Side, score: float) -> None:
        """Take the final score of one person, in the order in which scores became final.

        Raises ValueError for a score outside [0, 1].
        """
        if not 0.0 <= score <= 1.0:
            raise ValueError("A score lies between 0 and 1.")
        waiting = self.canary_waiting if arm == CANARY else self.production_waiting
        waiting.append(score)
        del waiting[:-MOST_WAITING]
        if self._is_block():
            self._settle()

    def see_block(self, canary: Sequence[float], production: Sequence[float]) -> None:
        """Take everybody of a comparison that is made once, as one block."""
        self.canary_waiting, self.production_waiting = list(canary), list(production)
        self._settle()

    def is_worse(self, alpha: float) -> bool:
        """Whether the evidence ever reached 1/alpha: wrong with a probability of at most alpha."""
        return self.peak_log >= -math.log(alpha)

    @property
    def p_value(self) -> float:
        """The smallest alpha at which it is worse; holds at any time (anytime-valid)."""
        return math.exp(-self.peak_log)

    @property
    def canary_mean(self) -> float | None:
        """The mean score of the canary's people in settled blocks."""
        return self.canary_sum / self.canary_people if self.canary_people else None

    @property
    def production_mean(self) -> float | None:
        """The mean score of production's people in settled blocks."""
        return self.production_sum / self.production_people if self.production_people else None

    def as_dict(self) -> dict[str, Any]:
        """Return what `Comparison(**stored)` takes; JSON can hold it."""
        return asdict(self)

    def _is_block(self) -> bool:
        # With fewer of production than half of what is expected, a bet would be a small one. But
        # where the canary's people come far more often than expected, they don't wait for ever.
        canary, production = len(self.canary_waiting), len(self.production_waiting)
        if not canary or not production:
            return False
        is_balanced = production >= min(self.odds, _MOST_ODDS) * canary / 2
        return is_balanced or canary >= _PATIENT_CANARY

    def _settle(self) -> None:
        """Bet on the people who wait, and count them."""
        production = self._expected_production()
        block = _Block(self.canary_waiting, self.production_waiting)
        for at, bet in enumerate(BETS):
            self.wealth_logs[at] += block.log_return(bet, production, self.margin)
        self.peak_log = max(self.peak_log, log_mean_exp(self.wealth_logs))
        self.canary_people += len(self.canary_waiting)
        self.canary_sum += sum(self.canary_waiting)
        self.production_people += len(self.production_waiting)
        self.production_sum += sum(self.production_waiting)
        self.canary_waiting, self.production_waiting = [], []

    def _expected_production(self) -> float:
        weight = _GUESS_WEIGHT + self.production_people
        return (_GUESS_WEIGHT * self.guess + self.production_sum) / weight


class _Block:
    """The scores of people who are bet on together."""

    def __init__(self, canary: Sequence[float], production: Sequence[float]) -> None:
        self._canary, self._production = Counter(canary).items(), Counter(production).items()
        self._sizes = len(canary), len(production)

    def log_return(self, bet: Bet, production: float, margin: float) -> float:
        """Return the logarithm of what the block multiplies the bet's wealth by.

        `production` is its mean as it was known before this block.
        """
        canary, others = self._sizes
        room = 1.0 - margin
        base = min(production, room, 0.99)  # with all people at 1 nothing could be bet
        # Between the arms, nearer to the larger one: as if both were the same and only the bound
        # between them.
        middle = base + bet.hopes * (room - base) * canary / (canary + others)
        above = middle + margin
        stake = bet.stake * min(canary / above, others / (1.0 - middle))
        log, log1p = 0.0, math.log1p
        for score, times in self._canary:
            log += times * log1p(stake / canary * (score - above))
        for score, times in self._production:
            log += times * log1p(stake / others * (middle - score))
        return log


def log_mean_exp(logs: Sequence[float]) -> float:
    """Return the logarithm of the mean of numbers that are given by their logarithms."""
    highest = max(logs)
    return highest + math.log(sum([math.exp(log - highest) for log in logs]) / len(logs))


# --- scores ------------------------------------------------------------------------------------


def window_of(turns_before: int) -> int:
    """Return in which window a person's next turn falls: 1 turn, then 4, 20, 100 and so on.

    Each window is compared on its own. The first finds at once what fails always; later ones are
    surer of each person.
    """
    window, end = 0, 1
    while turns_before >= end:
        window, end = window + 1, end * 5
    return window


def window_size(window: int) -> int:
    """Return how many turns of a person fill a window."""
    return 1 if window == 0 else 4 * 5 ** (window - 1)


def alpha_of(alpha: float, guards: int, steps: int, window: int) -> float:
    """Return what one comparison may err, so that all of them together err `alpha` at most.

    Guards and steps get equal parts, and of each the windows 1/2, 1/4, 1/8 and so on.
    """
    return alpha / (guards * steps * 2.0 ** (window + 1))


def score_of_ratio(value: float, usual: float) -> float:
    """Return the score of a quantity: 0 at half of the usual or less, 1 at four times or more.

    In between it grows with the logarithm, so that a few very slow or dear turns can't decide.
    """
    if value <= 0 or usual <= 0:
        return USUAL_SCORE if value <= 0 and usual <= 0 else float(value > 0)
    octaves = math.log2(value / usual)
    return min(1.0, max(0.0, (octaves + _OCTAVES_BELOW) / _OCTAVES))


def ratio_of_scores(canary: float, production: float) -> float:
    """Return how many times as much the canary has, from the mean scores of both arms."""
    return math.exp2((canary - production) * _OCTAVES)


def margin_of_ratio(factor: float) -> float:
    """Return how far apart the scores of a quantity and of `factor` times as much may lie."""
    return math.log2(factor) / _OCTAVES


@dataclass(slots=True)
class Scale:
    """Makes scores of a quantity, beginning when the usual is known.

    The first people of production say what is usual, and take no part in the comparison: a scale
    that depended on those who are compared could favour an arm. Until then the canary's wait.
    `as_dict` and `Scale(**stored)` keep it between looks.
    """

    usual: float | None = None
    first: list[float] = field(default_factory=list)
    held: list[float] = field(default_factory=list)

    def scores(self, arm: Side, value: float) -> list[tuple[Side, float]]:
        """Return the scores that are known now, with a person's value (0 or more) in an arm."""
        if self.usual is not None:
            return [(arm, score_of_ratio(value, self.usual))]
        (self.held if arm == CANARY else self.first).append(value)
        del self.held[:-MOST_WAITING]
        if len(self.first) < SCALED_BY:
            return []
        self.usual = median(self.first)
        held, self.held = self.held, []
        return [(CANARY, score_of_ratio(each, self.usual)) for each in held]

    def as_dict(self) -> dict[str, Any]:
        """Return what `Scale(**stored)` takes; JSON can hold it."""
        return asdict(self)
