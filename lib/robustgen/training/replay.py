"""Where Langevin chains are kept between training steps."""

import os

import torch

from ..core import rng


class ReplayBuffer:
    """Chains that go on from step to step (Du & Mordatch 2019; JEM).

    Each position of the global batch has `slots` chains of its own, of which one is drawn each step; so a process
    holds just its positions' chains, and what a chain does depends on no other process.
    """

    def __init__(self, start, first, count, slots, seed, device="cpu"):
        self.start = start
        positions = torch.arange(first, first + count, device=device)
        for slot in range(slots):
            chains = start(rng.fold(seed, positions, slot))
            if not slot:
                self.chains = self._room(count, slots, chains)
            self.chains[:, slot] = chains

    @staticmethod
    def _room(count, slots, chains):
        """An empty (count, slots, C, H, W), if it fits into the device's memory: the system grants what it does not
        have, and kills later."""
        size = count * slots * chains[0].numel() * chains.element_size()
        cuda = chains.device.type == "cuda"
        whole = (torch.cuda.mem_get_info(chains.device)[1] if cuda
                 else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        if size > whole:
            raise ValueError(f"a replay buffer of {count * slots} chains of shape {tuple(chains.shape[1:])} takes "
                             f"{size / 2**30:.3g} GiB, and there are "
                             f"{whole / 2**30:.3g} GiB of memory; lower 'buffer'")
        return chains.new_empty(count, slots, *chains.shape[1:])

    def draw(self, seeds, reinit):
        """Chains to go on with, one a position, each begun afresh with probability `reinit`: (images, slots)."""
        chance, slot = rng.uniform(seeds, (2,)).T
        slot = (slot * self.chains.shape[1]).long()
        x = self.chains[torch.arange(len(seeds), device=seeds.device), slot]
        fresh = (chance < reinit).nonzero()[:, 0]
        if len(fresh):
            x[fresh] = self.start(rng.fold(seeds[fresh], 1)).to(x.dtype)
        return x, slot

    def replace(self, chains):
        """Go on with kept chains (count, slots, C, H, W). Raises ValueError where they are of other images or of
        another size."""
        if chains.shape != self.chains.shape:
            raise ValueError(f"the kept replay buffer is of shape {tuple(chains.shape)}, and this dataset and these "
                             "settings need "
                             f"{tuple(self.chains.shape)}; delete the run's folder in results/<profile>/training/ to "
                             "begin anew")
        self.chains = chains.to(self.chains)

    def put(self, x, slot):
        """Leave chains where they were drawn from."""
        self.chains[torch.arange(len(x), device=x.device), slot] = x.to(self.chains.dtype)
