"""The Matryoshka loss on a module of one's own: plain torch, no dataset folder, configuration or TorchRec.

Two small towers learn simulated tastes: every item has a kind, and a user's next item is mostly of the kind of the last
ones. Afterwards each prefix of the vectors is an embedding of its own, and the script says how well it ranks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recsys.model import MatryoshkaSoftmax
from recsys.widths import WidthLadder, truncate

NUM_ITEMS, NUM_KINDS, HISTORY = 160, 8, 8
WIDTHS = (4, 8, 32)


class Towers(nn.Module):
    """A user is the mean of their items, through a layer; an item is its row."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(NUM_ITEMS, WIDTHS[-1])
        self.mix = nn.Linear(WIDTHS[-1], WIDTHS[-1])

    def users(self, history_BH: Tensor) -> Tensor:
        """Return ``(batch, full width)`` vectors, any scale."""
        vector_BD: Tensor = self.mix(self.items(history_BH).mean(dim=1))
        return vector_BD


def draw(num: int, *, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw simulated users: ``(num, HISTORY)`` items, and the next one, four times in five of the same kind."""
    kind_B1 = torch.randint(NUM_KINDS, (num, 1), generator=random)
    item_BH = torch.randint(NUM_ITEMS // NUM_KINDS, (num, HISTORY + 1), generator=random) * NUM_KINDS + kind_B1
    any_BH = torch.randint(NUM_ITEMS, item_BH.shape, generator=random)
    item_BH = torch.where(torch.rand(item_BH.shape, generator=random) < 0.8, item_BH, any_BH)
    return item_BH[:, :-1], item_BH[:, -1]


def train(*, steps: int = 300, seed: int = 1) -> tuple[Towers, list[float]]:
    """Return trained towers, and the last step's loss at each width."""
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    towers, softmax = Towers(), MatryoshkaSoftmax(WIDTHS, temperature=0.1)
    optimizer = torch.optim.Adam(towers.parameters(), lr=0.02)
    by_width = torch.zeros(len(WIDTHS))
    for _ in range(steps):
        history_BH, item_B = draw(256, random=random)
        negative_N = torch.randint(NUM_ITEMS, (256,), generator=random)
        loss, by_width = softmax(
            towers.users(history_BH),
            towers.items(item_B),
            towers.items(negative_N),
            item_B=item_B,
            negative_N=negative_N,
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return towers, by_width.tolist()


@torch.no_grad()
def share_of_kind(towers: Towers, *, k: int = 10, seed: int = 2) -> dict[int, float]:
    """Return, by width, the share of users' best ``k`` items that are of the kind they mostly chose."""
    history_BH, _ = draw(500, random=torch.Generator().manual_seed(seed))
    kind_B = torch.mode(history_BH % NUM_KINDS, dim=1).values
    user_BD, item_ND, ladder = towers.users(history_BH), towers.items.weight, WidthLadder(WIDTHS)
    found = {}
    for width in WIDTHS:
        score_BN = truncate(user_BD, width, ladder) @ truncate(item_ND, width, ladder).T
        best_BK = score_BN.topk(k, dim=1).indices
        found[width] = float((best_BK % NUM_KINDS == kind_B[:, None]).float().mean())
    return found


def main() -> None:
    """Train, and print what each width is good for."""
    towers, losses = train()
    for (width, share), loss in zip(share_of_kind(towers).items(), losses, strict=True):
        print(f"width {width:>2}: loss {loss:.2f}, {share:.0%} of the best 10 are of the user's kind (chance: 12%)")


if __name__ == "__main__":
    main()
