"""Blackjack: against a dealer with a fixed strategy, with cards from an infinite deck."""

from __future__ import annotations

from typing import Any

import numpy as np

from pgzoo.types import Array, Dynamics

__all__ = ["dynamics"]

DEALER_CARDS = 16
"""As many cards as the dealer can draw at most, from two aces (12) to above 16."""


def dynamics(env: Any) -> Dynamics:
    """Return the dynamics of gymnasium's Blackjack-v1.

    The state is, first of the player and then of the dealer: the sum of the cards with aces as 1, whether there is an
    ace, and the number of cards; and the dealer's first card. The constants are the settings `natural` and `sab`.
    """
    return Dynamics(
        size=7,
        reset=reset,
        step=step,
        observe=observe,
        read=lambda env: [*of_hand(env.player), *of_hand(env.dealer), env.dealer[0]],
        reset_randoms=4,
        step_randoms=DEALER_CARDS,
        constants=np.array([float(env.natural), float(env.sab)]),
        draws=lambda generator, count: [(generator.integers(13) + 0.5) / 13 for _ in range(count)],
    )


def of_hand(cards: list[int]) -> tuple[int, bool, int]:
    """Return the sum of the cards, whether there is an ace, and their number."""
    return sum(cards), 1 in cards, len(cards)


def reset(state: Array, random: Array, constants: Array) -> None:
    """Deal two cards to the dealer, and two to the player."""
    for i in range(6):
        state[i] = 0.0
    state[6] = card(random[0])
    take(state, 3, random[0])
    take(state, 3, random[1])
    take(state, 0, random[2])
    take(state, 0, random[3])


def step(state: Array, action: int, random: Array, constants: Array) -> tuple[float, bool]:
    """Take a card, or let the dealer play and compare."""
    if action == 1:
        take(state, 0, random[0])
        bust = total(state, 0) > 21
        return -1.0 if bust else 0.0, bust
    drawn = 0
    while total(state, 3) < 17:
        take(state, 3, random[drawn])
        drawn += 1
    player, dealer = total(state, 0), total(state, 3)
    dealer = 0 if dealer > 21 else dealer
    reward = 1.0 if player > dealer else -1.0 if player < dealer else 0.0
    own, theirs = player == 21 and state[2] == 2, dealer == 21 and state[5] == 2
    if constants[1] != 0.0:
        if own and not theirs:
            reward = 1.0
    elif constants[0] != 0.0 and own and reward == 1.0:
        reward = 1.5
    return reward, True


def card(random: float) -> int:
    """Return one of the 13 cards; jack, queen and king count 10."""
    return min(int(random * 13) + 1, 10)


def take(state: Array, hand: int, random: float) -> None:
    """Add a card to the hand that begins at an index of the state."""
    new = card(random)
    state[hand] += new
    if new == 1:
        state[hand + 1] = 1.0
    state[hand + 2] += 1


def total(state: Array, hand: int) -> int:
    """Return the value of a hand, in which an ace counts 11 if that isn't too much."""
    plain = int(state[hand])
    return plain + 10 if state[hand + 1] != 0.0 and plain + 10 <= 21 else plain


def observe(state: Array, obs: Array, constants: Array) -> None:
    """Show the player's total, the dealer's first card, and whether an ace counts 11, one-hot encoded."""
    for i in range(len(obs)):
        obs[i] = 0
    obs[total(state, 0)] = 1
    obs[32 + int(state[6])] = 1
    obs[43 + (1 if total(state, 0) != state[0] else 0)] = 1
