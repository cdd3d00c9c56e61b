"""Gates as a user of the library writes them: outside of it, from its public names alone."""

from torch import nn

from attnreid import Gate, PooledGate


class Efficient(PooledGate):
    """Weighs each channel by its own average and its neighbours', as efficient channel attention does."""

    def __init__(self, channels, *, device=None, dtype=None):
        super().__init__(channels)
        self.mix = nn.Conv1d(1, 1, 3, padding=1, device=device, dtype=dtype)

    def reset_parameters(self):
        self.mix.reset_parameters()

    def gate_of(self, pooled):
        return self.mix(pooled[:, None])[:, 0].sigmoid()


class Spotlight(Gate):
    """Weighs each position by what its channels say."""

    def __init__(self, channels, *, device=None, dtype=None):
        super().__init__(channels)
        self.weigh = nn.Conv2d(channels, 1, 1, device=device, dtype=dtype)

    def reset_parameters(self):
        self.weigh.reset_parameters()

    def gate(self, x):
        return self.weigh(x).sigmoid()
