"""Small models of every kind that users bring, for the engines on a CPU and on a GPU: right, or refused in one line.

`CASES` by name; `build` makes one from a configuration: model={"kind": "zoo.build", "case": NAME}.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from types import MethodType

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

from sasg.problem import models

Shape = tuple[int, int, int]
HIDDEN = 12


@dataclass(frozen=True)
class Case:
    make: Callable[[Shape, int], nn.Module]
    refused: str | None = None  # what the one line says; None: it is trained
    batched: bool = False  # whether samples are treated alone, in layers that `batched` knows
    captured: bool = True  # whether a pass leaves the host alone, so that a CUDA graph can hold it
    refused_in_float64: str | None = None
    heavy: bool = False  # one iteration of one method must do


CASES: dict[str, Case] = {}


def case(make=None, **what):
    """Adds a function of (image shape, classes), or a module class with that constructor, under its own name."""
    if make is None:
        return lambda make: case(make, **what)
    CASES[make.__name__] = Case(make, **what)
    return make


def build(image_shape: Shape, num_classes: int, case: str) -> nn.Module:
    return CASES[case].make(image_shape, num_classes)


class Net(nn.Module):
    """A hidden layer `a` and an output layer `b`; most models below change what is between or around them."""

    def __init__(self, shape: Shape, classes: int):
        super().__init__()
        self.a = nn.Linear(prod(shape), HIDDEN)
        self.b = nn.Linear(HIDDEN, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(F.relu(self.a(x.flatten(1)))))

    def between(self, x: Tensor) -> Tensor:
        return x


class Conv(nn.Module):
    """A convolution `a`, a body and a linear layer `b`."""

    def __init__(self, shape: Shape, classes: int, body: nn.Module | None = None, width: int = 6, channels: int = 6):
        super().__init__()
        self.a = nn.Conv2d(shape[0], width, 3, padding=1)
        self.body = body or nn.Identity()
        self.b = nn.Linear(channels * 4, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.adaptive_avg_pool2d(self.body(F.relu(self.a(x))), 2).flatten(1))


class Tokens(nn.Module):
    """Rows of an image as tokens [n, H, C * W], a body on [n, H, HIDDEN], their mean, an output layer."""

    def __init__(self, shape: Shape, classes: int):
        super().__init__()
        self.tokens, self.features = shape[1], shape[0] * shape[2]
        self.embed = nn.Linear(self.features, HIDDEN)
        self.b = nn.Linear(HIDDEN, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.transpose(1, 2).flatten(2))
        return self.b(self.body(x).mean(1))

    def body(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


# -- plain ---------------------------------------------------------------------------------------------


@case(batched=True)
def fully_connected(shape, classes):
    return models.fc(shape, classes, hidden=(HIDDEN, 8))


@case(batched=True)
def linear_from_zero(shape, classes):
    return models.linear(shape, classes)


@case(batched=True)
def one_layer(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), classes))


@case
def a_subclass_of_linear(shape, classes):
    class Scaled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    return nn.Sequential(nn.Flatten(), Scaled(prod(shape), classes))


@case(batched=True)
class residual(Net):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.c, self.d = nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, HIDDEN)

    def between(self, x):
        return x + self.d(F.gelu(self.c(x)))


@case(batched=True)
class dense_connections(Net):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.c = nn.Linear(HIDDEN, HIDDEN)
        self.b = nn.Linear(2 * HIDDEN, classes)

    def between(self, x):
        return torch.cat([x, torch.tanh(self.c(x))], dim=1)


@case(batched=True)
class maxout(Net):
    def between(self, x):
        return F.pad(x.view(len(x), -1, 2).amax(2), (0, HIDDEN // 2))


@case(batched=True)
class normalised_rows(Net):
    def between(self, x):
        return (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 0.1)


@case(batched=True)
class softmax_gate(Net):
    def between(self, x):
        return x * x.softmax(1)


@case(batched=True)
class in_place_between(Net):
    def between(self, x):
        return (x * 2).add_(1).clamp_(max=3)


@case
class prelu(Net):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.act = nn.PReLU(HIDDEN)

    def between(self, x):
        return self.act(x)


@case
class bilinear(Net):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.c = nn.Bilinear(HIDDEN, HIDDEN, HIDDEN)

    def between(self, x):
        return self.c(x, x.tanh())  # of x twice, entries (i, j) and (j, i) would tie


@case
class einsum(Net):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.w = nn.Parameter(torch.randn(HIDDEN, 3, HIDDEN) / 4)

    def between(self, x):
        return torch.einsum("nh,hkj->nj", x, self.w)


@case
class parameter_list(Net):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(HIDDEN)) for _ in range(2)])

    def between(self, x):
        return x * self.scales[0] + self.scales[1]


@case
class parameter_without_axes(Net):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.scale = nn.Parameter(torch.tensor(1.5))

    def between(self, x):
        return x * self.scale


@case
class only_a_parameter_without_axes(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.scale, self.classes = nn.Parameter(torch.tensor(1.5)), classes

    def forward(self, x):
        return self.scale * x.flatten(1)[:, : self.classes]


@case
class prototypes(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.centres = nn.Parameter(torch.randn(classes, prod(shape)))

    def forward(self, x):
        return -torch.cdist(x.flatten(1), self.centres)


@case
class fixed_features(Net):
    """A buffer that nobody changes."""

    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.register_buffer("features", torch.randn(HIDDEN, HIDDEN))

    def between(self, x):
        return torch.cos(x @ self.features)


@case
class fourier(Net):
    def between(self, x):
        return torch.fft.rfft(x, dim=1).abs().repeat(1, 2)[:, :HIDDEN]


@case(batched=True)
class sorted_features(Net):
    def between(self, x):
        return x.sort(1).values.cumsum(1)


@case
class hypernetwork(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.codes, self.size = nn.Parameter(torch.randn(classes, 4)), prod(shape)
        self.make = nn.Linear(4, self.size)

    def forward(self, x):
        return x.flatten(1) @ self.make(self.codes).t() / 8


@case
class fixed_point(Net):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.c = nn.Linear(HIDDEN, HIDDEN)

    def between(self, x):
        z = torch.zeros_like(x)
        for _ in range(4):
            z = torch.tanh(0.3 * self.c(z) + x)
        return z


# -- convolutions --------------------------------------------------------------------------------------


@case(batched=True)
def convolutions(shape, classes):
    body = nn.Sequential(nn.Conv2d(6, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=2, dilation=2))
    return Conv(shape, classes, body)


@case(batched=True)
def depthwise_and_grouped(shape, classes):
    return Conv(shape, classes, nn.Sequential(nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 6, 1, groups=2), nn.SiLU()))


@case(batched=True)
def pixel_shuffle(shape, classes):
    return Conv(shape, classes, nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.PixelShuffle(2)), channels=2)


@case(batched=True)
def resampled(shape, classes):
    return Conv(shape, classes, nn.Sequential(nn.MaxPool2d(2), nn.Upsample(scale_factor=2), nn.AvgPool2d(3, 1, 1)))


@case(batched=True)
class squeeze_and_excite(Conv):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.gate = nn.Linear(6, 6)

    def forward(self, x):
        x = F.relu(self.a(x))
        x = x * self.gate(x.mean((2, 3))).sigmoid()[:, :, None, None]
        return self.b(F.adaptive_avg_pool2d(x, 2).flatten(1))


@case
def padding_by_name(shape, classes):
    return Conv(shape, classes, nn.Conv2d(6, 6, 2, padding="same"))


@case
def reflected_padding(shape, classes):
    return Conv(shape, classes, nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect"))


@case
def transposed_convolution(shape, classes):
    return Conv(shape, classes, nn.ConvTranspose2d(6, 6, 3, 2))


@case
class convolution_1d(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.a, self.b = nn.Conv1d(shape[0] * shape[1], 8, 3), nn.Linear(8, classes)

    def forward(self, x):
        return self.b(F.relu(self.a(x.flatten(1, 2))).amax(2))


@case
class convolution_3d(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.a, self.b = nn.Conv3d(1, 4, (1, 3, 3)), nn.Linear(4, classes)

    def forward(self, x):
        return self.b(F.relu(self.a(x.unsqueeze(1))).mean((2, 3, 4)))


# -- normalisation -------------------------------------------------------------------------------------


@case(batched=True)
def batchnorm(shape, classes):
    body = nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, bias=False), nn.BatchNorm2d(6))
    return Conv(shape, classes, body)


@case(batched=True)
def batchnorm_of_vectors(shape, classes):
    first = nn.Linear(prod(shape), HIDDEN, bias=False)
    return nn.Sequential(nn.Flatten(), first, nn.BatchNorm1d(HIDDEN), nn.Linear(HIDDEN, classes))


@case(batched=True)
def batchnorm_without_statistics(shape, classes):
    return Conv(shape, classes, nn.BatchNorm2d(6, affine=False, track_running_stats=False))


@case(batched=True)
def small_resnet(shape, classes):
    return models.resnet18(shape, classes, width=2)


@case
def batchnorm_3d(shape, classes):
    layers = nn.Unflatten(1, (1, shape[0])), nn.BatchNorm3d(1), nn.Flatten(), nn.Linear(prod(shape), classes)
    return nn.Sequential(*layers)


@case
class batchnorm_in_evaluation(Conv):
    """The usual trick of fine-tuning: statistics that training leaves alone."""

    def __init__(self, shape, classes):
        super().__init__(shape, classes, nn.BatchNorm2d(6))
        self.body.running_mean.fill_(0.3)

    def train(self, mode=True):
        super().train(mode)
        self.body.eval()
        return self


@case
def groupnorm(shape, classes):
    return Conv(shape, classes, nn.GroupNorm(2, 6))


@case
def instancenorm(shape, classes):
    return Conv(shape, classes, nn.InstanceNorm2d(6, affine=True))


@case
def layernorm(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), HIDDEN), nn.LayerNorm(HIDDEN), nn.Linear(HIDDEN, classes))


@case(batched=True)
def layernorm_without_parameters(shape, classes):
    norm = nn.LayerNorm(HIDDEN, elementwise_affine=False)
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), HIDDEN), norm, nn.Linear(HIDDEN, classes))


@case
def rmsnorm(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), HIDDEN), nn.RMSNorm(HIDDEN), nn.Linear(HIDDEN, classes))


@case(batched=True)
def local_response(shape, classes):
    return Conv(shape, classes, nn.LocalResponseNorm(3))


@case
class centred_batch(Net):
    def between(self, x):
        return x - x.mean(0)


@case
class normalised_batch(Net):
    def between(self, x):
        return (x - x.mean(0, keepdim=True)) / (x.var(0, keepdim=True) + 1e-2).sqrt()


@case
class functional_batchnorm(Conv):
    def forward(self, x):
        x = F.batch_norm(F.relu(self.a(x)), None, None, training=True)
        return self.b(F.adaptive_avg_pool2d(x, 2).flatten(1))


@case
class divided_by_the_number_of_samples(Net):
    def between(self, x):
        return x / len(x)


@case
class largest_of_the_batch(Net):
    def between(self, x):
        return x / x.max()


# -- sequences -----------------------------------------------------------------------------------------


@case
class tokens(Tokens):
    pass


@case
class token_mixing(Tokens):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.mix, self.channels = nn.Linear(self.tokens, self.tokens), nn.Linear(HIDDEN, HIDDEN)

    def body(self, x):
        x = x + F.gelu(self.mix(x.transpose(1, 2))).transpose(1, 2)
        return x + F.gelu(self.channels(x))


@case
class attention_of_linear_layers(Tokens):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.q, self.k, self.v = (nn.Linear(HIDDEN, HIDDEN) for _ in range(3))

    def body(self, x):
        q, k, v = (layer(x).unflatten(2, (3, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


@case
class multihead_attention(Tokens):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.attention = nn.MultiheadAttention(HIDDEN, 3, batch_first=True)

    def body(self, x):
        return x + self.attention(x, x, x, need_weights=False)[0]


@case
class transformer(Tokens):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.positions = nn.Parameter(torch.randn(self.tokens, HIDDEN) / 10)
        self.token = nn.Parameter(torch.zeros(1, 1, HIDDEN))
        self.block = nn.TransformerEncoderLayer(HIDDEN, 2, 16, dropout=0.0, batch_first=True)

    def body(self, x):
        x = torch.cat([self.token.expand(len(x), -1, -1), x + self.positions], dim=1)
        return self.block(x)[:, :1]


@case
class rnn(Tokens):
    kind = nn.RNN

    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.cell = self.kind(HIDDEN, HIDDEN, batch_first=True)

    def body(self, x):
        return self.cell(x)[0]


@case
class gru(rnn):
    kind = nn.GRU


@case
class lstm(rnn):
    kind = nn.LSTM


@case
class bidirectional_lstm(Tokens):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.cell = nn.LSTM(HIDDEN, HIDDEN // 2, num_layers=2, bidirectional=True, batch_first=True)

    def body(self, x):
        return self.cell(x)[0]


@case
class lstm_cell(Tokens):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.cell = nn.LSTMCell(HIDDEN, HIDDEN)

    def body(self, x):
        state = None
        for token in x.unbind(1):
            state = self.cell(token, state)
        return state[0].unsqueeze(1)


@case
class embedding(nn.Module):
    """Pixels as words."""

    def __init__(self, shape, classes, sparse=False):
        super().__init__()
        self.words, self.b = nn.Embedding(8, 4, sparse=sparse), nn.Linear(4 * prod(shape), classes)

    def forward(self, x):
        return self.b(self.words(x.flatten(1).mul(2).long().clamp(0, 7)).flatten(1))


@case
def sparse_embedding(shape, classes):
    return embedding(shape, classes, sparse=True)


@case
class embedding_bag(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.words, self.b = nn.EmbeddingBag(8, HIDDEN), nn.Linear(HIDDEN, classes)

    def forward(self, x):
        return self.b(self.words(x.flatten(1).mul(2).long().clamp(0, 7)))


# -- the same layer, other ways of calling, branches ---------------------------------------------------


@case
class linear_called_twice(Net):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.c = nn.Linear(HIDDEN, HIDDEN)

    def between(self, x):
        return self.c(torch.tanh(self.c(x)))


@case
class convolution_called_twice(Conv):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.c = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x):
        x = F.relu(self.a(x))
        return self.b(F.adaptive_avg_pool2d(self.c(F.relu(self.c(x))), 2).flatten(1))


@case
class batchnorm_called_twice(Conv):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.c = nn.BatchNorm2d(6, track_running_stats=False)

    def forward(self, x):
        x = self.c(F.relu(self.a(x)))
        return self.b(F.adaptive_avg_pool2d(self.c(F.relu(x)), 2).flatten(1))


@case
class siamese(Net):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.twin = nn.Sequential(nn.Linear(HIDDEN // 2, HIDDEN), nn.ReLU())

    def between(self, x):
        left, right = x.chunk(2, dim=1)
        return self.twin(left) - self.twin(right)


@case
class one_module_with_two_names(Net):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.c = nn.Linear(HIDDEN, HIDDEN)
        self.d = self.c

    def between(self, x):
        return self.d(x)


@case
class layer_that_is_never_called(Net):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.c = nn.Linear(HIDDEN, HIDDEN)


@case
class functional_linear(Net):
    def forward(self, x):
        return self.b(F.relu(F.linear(x.flatten(1), self.a.weight, self.a.bias)))


@case
class tied_autoencoder(Net):
    def between(self, x):
        return x + self.a(torch.tanh(F.linear(x, self.a.weight.t())))


@case
class tied_weights(Net):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.c, self.d = nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.d.weight = self.c.weight

    def between(self, x):
        return self.d(torch.tanh(self.c(x)))


@case
class frozen_layer(Net):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.a.requires_grad_(False)


@case
class frozen_bias(Net):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.b.bias.requires_grad_(False)


@case
class frozen_convolutions_and_batchnorm(Conv):
    def __init__(self, shape, classes):
        super().__init__(shape, classes, nn.BatchNorm2d(6))
        self.a.requires_grad_(False)
        self.body.requires_grad_(False)


@case(batched=True)
class soft_mixture(Net):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.experts = nn.ModuleList(nn.Linear(HIDDEN, HIDDEN) for _ in range(3))
        self.gate = nn.Linear(HIDDEN, 3)

    def between(self, x):
        weights = self.gate(x).softmax(1)
        return sum(weights[:, i : i + 1] * expert(x) for i, expert in enumerate(self.experts))


@case(captured=False)
class mixture_by_indexing(soft_mixture):
    def between(self, x):
        weight, chosen = self.gate(x).softmax(1).max(1)
        out = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            out[chosen == i] = expert(x[chosen == i])
        return out * weight.unsqueeze(1)


@case(captured=False)
class mixture_of_those_that_are_asked(soft_mixture):
    """An expert that no sample of a mini-batch asks for has no gradient."""

    def between(self, x):
        weight, chosen = self.gate(x).softmax(1).max(1)
        out = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            asked = chosen == i
            if asked.any():
                out = out.index_put((asked.nonzero().flatten(),), expert(x[asked]))
        return out * weight.unsqueeze(1)


@case(captured=False)
class branch_on_data(Net):
    def between(self, x):
        return torch.tanh(x) if x.mean() > 0.5 else x


@case
def in_place_relu(shape, classes):
    first, second = nn.Linear(prod(shape), HIDDEN), nn.Linear(HIDDEN, classes)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(inplace=True), second)


@case(batched=True)
def lazy(shape, classes):
    layers = nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(HIDDEN)
    return nn.Sequential(*layers, nn.Linear(HIDDEN, classes))


@case(batched=True)
class checkpointed(Net):
    reentrant = False

    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.c = nn.Sequential(nn.Linear(HIDDEN, HIDDEN), nn.Tanh())

    def between(self, x):
        return checkpoint(self.c, x, use_reentrant=self.reentrant, preserve_rng_state=False)


@case
class checkpointed_reentrant(checkpointed):
    reentrant = True


# -- hooks, custom derivatives, parametrisations -------------------------------------------------------


@case
def forward_hook(shape, classes):
    model = Net(shape, classes)
    model.a.register_forward_hook(lambda layer, inputs, output: 0.5 * output)
    return model


@case
def forward_pre_hook(shape, classes):
    model = Net(shape, classes)
    model.b.register_forward_pre_hook(lambda layer, inputs: (inputs[0].tanh(),))
    return model


@case
def backward_hook(shape, classes):
    model = Net(shape, classes)
    model.b.register_full_backward_hook(lambda layer, into, out: (into[0] * 0.1,))
    return model


@case
class tensor_hook(Net):
    def between(self, x):
        if x.requires_grad:
            x.register_hook(lambda gradient: gradient / (gradient.norm() + 1))
        return x


@case
class forward_of_an_instance(Net):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.b.forward = MethodType(lambda layer, x: 2 * F.linear(x, layer.weight, layer.bias), self.b)


class Rounded(torch.autograd.Function):
    """Straight-through."""

    @staticmethod
    def forward(ctx, x):
        return (4 * x).round() / 4

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class NormalisedGradient(torch.autograd.Function):
    """A derivative that mixes samples, of a function that does not."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient / (gradient.norm() + 1)


@case
class straight_through(Net):
    def between(self, x):
        return Rounded.apply(x)


@case
class derivative_that_mixes_samples(Net):
    def between(self, x):
        return NormalisedGradient.apply(x)


@case
def weight_norm(shape, classes):
    model = Net(shape, classes)
    parametrizations.weight_norm(model.a)
    return model


@case
def orthogonal(shape, classes):
    model = Net(shape, classes)
    parametrizations.orthogonal(model.b)
    return model


class Positive(nn.Module):
    def forward(self, weight):
        return weight.square()


@case
def positive_weights(shape, classes):
    model = Net(shape, classes)
    parametrize.register_parametrization(model.b, "weight", Positive())
    return model


# -- torchvision's small classifiers -------------------------------------------------------------------


def _of_torchvision(name: str, **options):
    def make(shape, classes):
        import torchvision

        network = getattr(torchvision.models, name)(weights=None, num_classes=classes, **options)
        return nn.Sequential(nn.Conv2d(shape[0], 3, 1), nn.Upsample(size=(32, 32)), network)

    return make


CASES["torchvision_shufflenet"] = Case(_of_torchvision("shufflenet_v2_x0_5"), batched=True, heavy=True)
CASES["torchvision_mobilenet"] = Case(_of_torchvision("mobilenet_v3_small", dropout=0.0), heavy=True)


# -- refused -------------------------------------------------------------------------------------------


@case(refused=r"its Dropout '2' draws at random")
def dropout(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), HIDDEN), nn.Dropout(0.1), nn.Linear(HIDDEN, classes))


@case(batched=True)
def dropout_of_nothing(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.0), nn.Linear(prod(shape), classes))


@case(refused="its noise draws at random")
class noise(Net):
    def between(self, x):
        return x + 0.1 * torch.randn_like(x)


@case(refused="draws at random")
class layers_dropped_by_python(Net):
    def between(self, x):
        return x if random.random() < 0.99 else 2 * x


@case(refused="draws at random")
class generator_of_its_own(Net):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.seed = 0

    def between(self, x):
        self.seed += 1
        return x + torch.randn(x.shape, generator=torch.Generator().manual_seed(self.seed), dtype=x.dtype)


@case(refused="its buffer mean changes in a training pass")
class running_buffer(Net):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.register_buffer("mean", torch.zeros(HIDDEN))

    def between(self, x):
        if self.training:
            self.mean.lerp_(x.detach().mean(0), 0.1)
        return x - self.mean


@case(refused="its buffer c.running_mean changes")
class instancenorm_with_statistics(Conv):
    def __init__(self, shape, classes):
        super().__init__(shape, classes, nn.Identity())
        self.c = nn.InstanceNorm2d(6, track_running_stats=True)

    def forward(self, x):
        return self.b(F.adaptive_avg_pool2d(self.c(F.relu(self.a(x))), 2).flatten(1))


@case(refused="its buffer .*_u changes")
def spectral_norm(shape, classes):
    model = Net(shape, classes)
    parametrizations.spectral_norm(model.a)
    return model


@case(refused="gives other outputs when it is asked again")
class counts_its_calls(Net):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.calls = 0

    def between(self, x):
        self.calls += 1
        return x / self.calls


@case(refused="in evaluation it depends on what it has seen")
class remembers_in_an_attribute(Net):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.mean = 0.0

    def between(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
            return x - x.mean(0)
        return x - self.mean


@case(batched=True)
class attribute_for_inspection(Net):
    def between(self, x):
        self.seen = x.detach()
        return x


@case(refused="BatchNorm2d 'c' is called 2 times")
class tracked_batchnorm_called_twice(batchnorm_called_twice):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.c = nn.BatchNorm2d(6)


@case(refused="BatchNorm1d 'c' is called 0 times")
class batchnorm_that_is_never_called(Net):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.c = nn.BatchNorm1d(HIDDEN)


@case(refused="keeps other running statistics than a BatchNorm")
class batchnorm_of_its_own(Net):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.c = Halved(HIDDEN)

    def between(self, x):
        return self.c(x)


class Halved(nn.BatchNorm1d):
    def forward(self, x):
        return F.batch_norm(x, self.running_mean, self.running_var, training=self.training, momentum=0.5)


@case(refused="momentum=None")
def cumulative_batchnorm(shape, classes):
    return Conv(shape, classes, nn.BatchNorm2d(6, momentum=None))


@case(refused="SyncBatchNorm 'body' mixes the workers' statistics")
def sync_batchnorm(shape, classes):
    return Conv(shape, classes, nn.SyncBatchNorm(6))


@case(refused="its RecursiveScriptModule 'b' is TorchScript")
class torchscript(Net):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.b = torch.jit.script(nn.Linear(HIDDEN, classes))


@case(refused="gives a tuple")
class tuple_of_outputs(Net):
    def forward(self, x):
        return super().forward(x), x


@case(refused="gives a dict")
class dictionary_of_outputs(Net):
    def forward(self, x):
        return {"logits": super().forward(x)}


@case(refused="gives a tuple")
class tuple_in_evaluation(Net):
    def forward(self, x):
        out = super().forward(x)
        return out if self.training else (out, x)


@case(refused="outputs of type torch.int64")
class whole_numbers(Net):
    def forward(self, x):
        return super().forward(x).long()


@case(refused="do not depend on its parameters")
class detached(Net):
    def forward(self, x):
        return super().forward(x).detach()


@case(refused="has no parameters to train")
def without_parameters(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(classes))


@case(refused="has no parameters to train")
def frozen(shape, classes):
    return Net(shape, classes).requires_grad_(False)


@case(refused="parameter phase is of type torch.complex64")
class complex_parameter(Net):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.phase = nn.Parameter(torch.ones(HIDDEN, dtype=torch.complex64))

    def between(self, x):
        return (x * self.phase).abs()


@case(refused="parameter a.weight has a hook")
def parameter_hook(shape, classes):
    model = Net(shape, classes)
    model.a.weight.register_hook(lambda gradient: gradient.clamp(-1, 1))
    return model


@case(refused="cannot be copied")
def weight_norm_by_hooks(shape, classes):
    model = Net(shape, classes)
    torch.nn.utils.weight_norm(model.a)
    return model


@case(refused="another gradient of scale than the model itself")
class reference_from_outside(Net):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.scale = nn.Parameter(torch.ones(HIDDEN))
        self.a.register_forward_hook(lambda layer, inputs, output: output * self.scale)


@case(refused="changes its input in place")
class in_place_on_the_input(Net):
    def forward(self, x):
        return super().forward(x.sub_(0.5))


@case(refused="changes its parameter a.weight in a pass")
class clamped_weights(Net):
    def forward(self, x):
        with torch.no_grad():
            self.a.weight.clamp_(-0.01, 0.01)
        return super().forward(x)


@case(refused=r"does not take digits's images of shape 1x8x8 \(.*zoo.py:\d+\)")
class wrong_shape(Net):
    def between(self, x):
        return x @ x


@case(refused=r"does not take digits's images of shape 1x8x8 in evaluation \(KeyError: 'eval', zoo.py:\d+\)")
class fails_in_evaluation(Net):
    def between(self, x):
        return x if self.training else {}["eval"]


@case(refused="its module is not called")
class lazy_and_never_called(Net):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.c = nn.LazyLinear(3)


@case(refused_in_float64="cannot be trained in float64 on cpu")
class single_precision_inside(Net):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.c = nn.Linear(HIDDEN, HIDDEN)

    def between(self, x):
        return self.c(torch.eye(len(x), dtype=torch.float32, device=x.device) @ x)
