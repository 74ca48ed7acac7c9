"""The queries of a training step as tokens, and the pictures that answer them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

import phrases
from painter import CONCEPTS
from recipe import prompt

COUNT = 48
TOKENS = 36


def bits(concepts: Iterable[str]) -> int:
    """Concepts as a bit mask, in the order of `CONCEPTS`."""
    return sum(1 << CONCEPTS.index(name) for name in concepts)


class Questions:
    """Draws and encodes the queries of a step, and computes which pictures answer them."""

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        self.tokenizer, self.rng = tokenizer, random.Random(f"questions {seed}")

    def draw(self, truth: np.ndarray) -> list[phrases.Query]:
        """`COUNT` queries for a batch of pictures whose truth [pictures] is given as bit masks."""
        rng = self.rng
        wanted = [*CONCEPTS, "baby", "baby", "baby", "dog", "cat", "people", "pet", "animal"]
        queries = [self._fitting(lambda loose, c=c: phrases.single(c, rng, loose=loose)) for c in wanted]
        queries.append(self._fitting(lambda _: phrases.nobody(rng)))
        present = [[c for i, c in enumerate(CONCEPTS) if mask >> i & 1] for mask in truth.tolist()]
        present = [names for names in present if len(names) >= 2]
        while len(queries) < COUNT:  # pairs of concepts, mostly pairs that some picture of the batch shows
            if present and rng.random() < 0.6:
                one, other = rng.sample(rng.choice(present), 2)
            else:
                one, other = rng.sample(CONCEPTS, 2)
            queries.append(
                self._fitting(lambda loose, one=one, other=other: phrases.pair(one, other, rng, loose=loose))
            )
        return queries

    def _tokens(self, query: phrases.Query) -> list[int]:
        return self.tokenizer.encode(prompt(query.text, instruction=query.instruction)).ids

    def _fitting(self, make: Callable[[bool], phrases.Query]) -> phrases.Query:
        """A query of at most `TOKENS` tokens. A quarter of the queries are loose (names among random words);
        nearly all fit at the first attempt."""
        while True:
            query = make(self.rng.random() < 0.25)
            if len(self._tokens(query)) <= TOKENS:
                return query

    def encode(self, queries: list[phrases.Query]) -> tuple[Tensor, Tensor]:
        """Prompts as ids [queries, TOKENS], padded on the right, and the index of the last token of each."""
        ids = torch.zeros(len(queries), TOKENS, dtype=torch.long)  # causal attention ignores the padding, so any id will do
        last = torch.zeros(len(queries), dtype=torch.long)
        for i, query in enumerate(queries):
            tokens = self._tokens(query)
            if len(tokens) > TOKENS:
                raise ValueError(f"query of {len(tokens)} tokens: {query.text!r}")
            ids[i, : len(tokens)] = torch.tensor(tokens)
            last[i] = len(tokens) - 1
        return ids, last

    @staticmethod
    def answers(queries: list[phrases.Query], truth: np.ndarray) -> Tensor:
        """f32 [pictures, queries]: 1 if the picture answers the query, else 0."""
        columns = []
        people = bits(("baby", "child", "adult"))
        for query in queries:
            if query.nobody:
                columns.append((truth & people) == 0)
            else:
                columns.append(np.logical_and.reduce([(truth & bits(wanted)) != 0 for wanted in query.rule]))
        return torch.from_numpy(np.stack(columns, axis=1).astype(np.float32))
