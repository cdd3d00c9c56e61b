"""The two released training programs as they step, written out: two devices, the losses, Adam, schedule and memory.

Read from what is known of APNet's and cluster contrast's released code (losses, optimiser, warm-up, statistics of each
device, memory); nothing here is the pipelines'. The networks are the caller's.
"""

import copy

import torch


class Adam:
    """Adam with L2 decay added to the gradient, one group, as both programs make it."""

    def __init__(self, parameters, weight_decay, betas=(0.9, 0.999), eps=1e-8):
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.weight_decay, self.betas, self.eps = weight_decay, betas, eps
        self.first = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.second = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.steps = 0

    @torch.no_grad()
    def step(self, gradients, rate):
        self.steps += 1
        one, two = self.betas
        for i, (parameter, gradient) in enumerate(zip(self.parameters, gradients, strict=True)):
            gradient = gradient + self.weight_decay * parameter
            self.first[i] = one * self.first[i] + (1 - one) * gradient
            self.second[i] = two * self.second[i] + (1 - two) * gradient**2
            mean = self.first[i] / (1 - one**self.steps)
            variance = self.second[i] / (1 - two**self.steps)
            parameter -= rate * mean / (variance.sqrt() + self.eps)


class OnDevices:
    """A network on some devices: each has a copy and its part of the batch, the first one's buffers stay."""

    def __init__(self, network, devices):
        self.network, self.devices = network, devices

    def __call__(self, images):
        """Return what all devices compute of the batch, in its order; the graph leads to the one network."""
        outputs = []
        for device, part in enumerate(images.chunk(self.devices)):
            kept = copy.deepcopy(dict(self.network.named_buffers()))
            outputs.append(self.network(part))
            if device:
                for name, buffer in self.network.named_buffers():
                    buffer.data = kept[name].data
        return [None if part[0] is None else torch.cat(part) for part in zip(*outputs, strict=True)]


def supervised_rate(epoch, base, warmup_epochs, warmup_factor, milestones, gamma):
    """Return the rate of an epoch, 0-based: linear from factor to 1, and times gamma from each milestone on."""
    warm = 1.0
    if epoch < warmup_epochs:
        alpha = epoch / warmup_epochs
        warm = warmup_factor * (1 - alpha) + alpha
    return base * warm * gamma ** len([milestone for milestone in milestones if milestone <= epoch])


def supervised_loss(pooled, logits, labels, margin, smoothing):
    """Return batch-hard triplet on the features before the neck plus smoothed cross-entropy, both means."""
    labels, hinges = labels.tolist(), []
    for i, label in enumerate(labels):
        apart = [((pooled[i] - other) ** 2).sum().sqrt() if j != i else None for j, other in enumerate(pooled)]
        farthest = max(apart[j] for j, other in enumerate(labels) if other == label and j != i)
        nearest = min(apart[j] for j, other in enumerate(labels) if other != label)
        hinges.append(torch.clamp(farthest - nearest + margin, min=0))
    classes = logits.shape[1]
    targets = torch.zeros_like(logits)
    targets[torch.arange(len(labels)), labels] = 1
    targets = (1 - smoothing) * targets + smoothing / classes
    log_probabilities = logits - logits.exp().sum(dim=1, keepdim=True).log()
    return sum(hinges) / len(hinges) - (targets * log_probabilities).mean(dim=0).sum()


def supervised_epochs(network, epochs, labels, *, devices, rates, weight_decay, margin, smoothing):
    """Train on the batches (images, indices) of each epoch and return the loss of every step."""
    parallel, adam, losses = OnDevices(network, devices), Adam(network.parameters(), weight_decay), []
    network.train()
    for rate, batches in zip(rates, epochs, strict=True):
        for images, indices in batches:
            pooled, _, logits = parallel(images)
            loss = supervised_loss(pooled, logits, labels[indices], margin, smoothing)
            adam.step(torch.autograd.grad(loss, adam.parameters), rate)
            losses.append(loss.item())
    return losses


def contrast_epochs(network, epochs, clusters, memory, *, devices, rates, weight_decay, temperature, momentum):
    """Train against the memory (K, D), which moves with each batch, and return the loss of every step."""
    parallel, adam, losses = OnDevices(network, devices), Adam(network.parameters(), weight_decay), []
    network.train()
    for rate, batches in zip(rates, epochs, strict=True):
        for images, indices in batches:
            features = parallel(images)[1]
            unit = features / (features**2).sum(dim=1, keepdim=True).sqrt()
            logits = unit @ memory.T / temperature
            of_batch = clusters[indices]
            loss = torch.stack(
                [row.exp().sum().log() - row[label] for row, label in zip(logits, of_batch.tolist(), strict=True)]
            ).mean()
            gradients = torch.autograd.grad(loss, adam.parameters)
            for cluster in sorted(set(of_batch.tolist())):
                members = [i for i, other in enumerate(of_batch.tolist()) if other == cluster]
                hardest = min(members, key=lambda i: float(unit[i].detach() @ memory[cluster]))
                moved = momentum * memory[cluster] + (1 - momentum) * unit[hardest].detach()
                memory[cluster] = moved / (moved**2).sum().sqrt()
            adam.step(gradients, rate)
            losses.append(loss.item())
    return losses
