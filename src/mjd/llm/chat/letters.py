"""The tokens that spell an option letter as the first token of an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from mjd.errors import ModelError

LetterTokens = Literal["all", "single"]

# A letter with one space before it, as vocabularies write it: as it is, SentencePiece's mark, byte-level BPE's.
_SPACES = ("", " ", "▁", "Ġ")


def spellings(tokenizer: Any, letters: Sequence[str]) -> dict[str, list[int]]:
    """Ids of the vocabulary's tokens that are a letter, bare or with one space before it; no special or added ones.

    Where a tokenizer writes letters in lower case (uncased vocabularies), so do its tokens.
    """
    added = {int(i) for i in tokenizer.added_tokens_decoder}
    vocabulary: Mapping[str | bytes, int] = tokenizer.get_vocab()
    found: dict[str, list[int]] = {}
    for letter in letters:
        written = tokenizer.decode(tokenizer(letter, add_special_tokens=False)["input_ids"]).strip()
        spelled = [letter, letter.lower()] if written == letter.lower() else [letter]
        forms = [space + one for one in spelled for space in _SPACES]
        ids = {vocabulary.get(form, vocabulary.get(form.encode())) for form in forms}
        known = sorted(int(i) for i in ids if i is not None and i not in added)
        # A byte-level vocabulary writes bytes as characters: one that looks like a letter may be half of another.
        found[letter] = [i for i in known if tokenizer.decode([i]).strip() in spelled]
    return found


def check_distinct(tokens: Mapping[str, Sequence[int]], name: str) -> None:
    """Raise `ModelError` when a token counts for two letters."""
    owner: dict[int, str] = {}
    for letter, ids in tokens.items():
        for i in ids:
            if owner.setdefault(i, letter) != letter:
                raise ModelError(
                    f"The tokenizer of {name} writes the option letters {owner[i]!r} and {letter!r} as the same token.",
                    "Use a scorer whose tokenizer keeps them apart.",
                )


def letter_scores(logits: torch.Tensor, tokens: Sequence[Sequence[Sequence[int]]]) -> torch.Tensor:
    """Scores [n, n_letters] from logits [n, vocabulary] and, for each row and letter, the ids of its tokens.

    A score is the logarithm of the sum of the exponentials of its tokens' logits: for log-probabilities, the
    log-probability of any of them.
    """
    most = max(len(ids) for row in tokens for ids in row)
    padded = torch.tensor([[[*ids, *[-1] * (most - len(ids))] for ids in row] for row in tokens], device=logits.device)
    chosen = logits.gather(1, padded.clamp(min=0).flatten(1)).view(padded.shape)
    return chosen.masked_fill(padded < 0, float("-inf")).logsumexp(2) if most > 1 else chosen[:, :, 0]
