"""Training steps of this project and of its peers on rows held in memory, each as its own trainer does it.

Runs in a virtual environment that has the peers (``make bench-sae``). Ours is a ``Learner``, SAELens's the step of its
``SAETrainer``, dictionary_learning's the ``update`` of its trainers, each with all that belongs to it. sparsify's
trainer cannot be stepped, for it runs a language model: its step is written down here from its ``fit``, without what
only concerns that model.

Shape legend: N rows, D their width, T rows of a batch, F latents.
"""

import logging
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from itertools import cycle
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from mistudio.activations import ActivationStream
from mistudio.sae.config import (
    ArchitectureConfig,
    BatchTopKConfig,
    GatedConfig,
    JumpReLUConfig,
    MatryoshkaConfig,
    StandardConfig,
    TopKConfig,
)
from mistudio.train import TrainConfig
from mistudio.train.learner import Learner

if not torch.cuda.is_available():
    os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")  # its kernels need a GPU; read when it is imported
os.environ.setdefault("TQDM_DISABLE", "1")
logging.getLogger("sae_lens").setLevel(logging.ERROR)

PENALISED = ("standard", "gated", "jumprelu")
_NORM_BATCHES = 8
_GAIN = 0.03  # largest change of the logarithm of a penalty's weight in one step, as ours has it


class Shape(NamedTuple):
    """What is trained."""

    d_in: int
    width: int
    k: int
    batch: int

    def __str__(self) -> str:
        return f"d {self.d_in}, width {self.width}, k {self.k}, batch {self.batch}"


class Reconstruction(NamedTuple):
    """Rows as an autoencoder gives them back, and how many latents a row it took."""

    rows_ND: Tensor
    l0: float


class Contender(Protocol):
    """One library's training of one autoencoder."""

    silent_F: Tensor  # what it counts for each latent since it was last active

    def step(self, x_TD: Tensor) -> None:
        """Train on a batch of rows as they were captured."""

    def reconstruct(self, x_ND: Tensor) -> Reconstruction:
        """Encode and decode, in the rows' own units."""


def fvu(contender: Contender, x_ND: Tensor) -> tuple[float, float]:
    """Fraction of variance unexplained on some rows, and the L0."""
    with torch.no_grad():
        out_ND, l0 = contender.reconstruct(x_ND)
        missed = (x_ND - out_ND.float()).square().sum() / (x_ND - x_ND.mean(dim=0)).square().sum()
    return float(missed), l0


class MemoryRows:
    """An activation stream (:class:`mistudio.activations.ActivationStream`) over rows in memory, in their order."""

    dtype = "float32"

    def __init__(self, rows_ND: Tensor, batch_rows: int) -> None:
        self.rows_ND, self._batch_rows, self._next = rows_ND, batch_rows, 0
        self.width = self.target_width = rows_ND.shape[1]

    def __len__(self) -> int:
        return len(self.rows_ND)

    def sample(self, num_rows: int) -> Tensor:
        """Evenly spaced rows."""
        return self.rows_ND[:: max(len(self) // num_rows, 1)].cpu()

    def next_batch(self) -> Tensor:
        """The next rows."""
        batch_TD = self.rows_ND[self._next : self._next + self._batch_rows]
        self._next = (self._next + self._batch_rows) % len(self)
        return batch_TD

    def state_dict(self) -> dict[str, Any]:
        """Where it is."""
        return {"next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._next = state["next"]


def our_config(architecture: str, shape: Shape, target_l0: float | None = None) -> ArchitectureConfig:
    """The architecture in this project, with ``target_l0`` active latents on a token, or ``shape.k``."""
    kinds: dict[str, type[ArchitectureConfig]] = {
        "topk": TopKConfig,
        "batchtopk": BatchTopKConfig,
        "matryoshka": MatryoshkaConfig,
        "jumprelu": JumpReLUConfig,
        "gated": GatedConfig,
        "standard": StandardConfig,
    }
    wanted = target_l0 or shape.k
    sparsity = {"target_l0": wanted} if architecture in PENALISED else {"k": int(wanted)}
    return kinds[architecture](width=shape.width, allow_wide=True, **sparsity)


class Ours:
    """This project's learner.

    Args:
        sae: what is trained, of :func:`our_config`.
        stream: the rows; only their number and a sample are read.
        shape: what is trained.
        num_steps: steps of the whole training.
        seed: of initialisation.
        device: where.
        **settings: of its training.
    """

    def __init__(
        self,
        sae: ArchitectureConfig,
        stream: ActivationStream[Tensor],
        shape: Shape,
        num_steps: int,
        seed: int = 0,
        device: str = "cpu",
        **settings: Any,
    ) -> None:
        config = TrainConfig(
            hook="resid_post.0",
            sae=sae,
            tokens=num_steps * shape.batch,
            max_epochs=num_steps * shape.batch,
            batch_size=shape.batch,
            patience=0,
            **settings,
        )
        self.learner = Learner(config, stream, seed, torch.device(device))
        self.silent_F = self.learner.silent_tokens_F

    def step(self, x_TD: Tensor) -> None:
        """Train on a batch."""
        self.learner.learn(x_TD)

    def reconstruct(self, x_ND: Tensor) -> Reconstruction:
        """Encode and decode."""
        sae, scaling = self.learner.sae, self.learner.scaling
        active = sae.encode_active(scaling.inputs(x_ND))
        rows_ND = sae.decode_active(active, len(x_ND)) * scaling.normalisation.target_scale
        rows_ND += scaling.normalisation.target_mean_E.to(x_ND.device)
        return Reconstruction(rows_ND, len(active.token_A) / len(x_ND))


def saelens_config(architecture: str, shape: Shape, num_steps: int, device: str = "cpu", **changes: Any) -> Any:
    """The architecture in SAELens, set as its page on training recommends."""
    import sae_lens

    shared = {
        "d_in": shape.d_in,
        "d_sae": shape.width,
        "device": device,
        "normalize_activations": "expected_average_only_in",
    }
    widths = list(our_config("matryoshka", shape).nested_widths)  # type: ignore[attr-defined]
    kinds: dict[str, tuple[type, dict[str, Any]]] = {
        "topk": (sae_lens.TopKTrainingSAEConfig, {"k": shape.k}),
        "batchtopk": (sae_lens.BatchTopKTrainingSAEConfig, {"k": shape.k}),
        "matryoshka": (sae_lens.MatryoshkaBatchTopKTrainingSAEConfig, {"k": shape.k, "matryoshka_widths": widths}),
        "jumprelu": (
            sae_lens.JumpReLUTrainingSAEConfig,
            {
                "jumprelu_sparsity_loss_mode": "tanh",
                "jumprelu_bandwidth": 2.0,
                "jumprelu_init_threshold": 0.1,
                "pre_act_loss_coefficient": 3e-6,
                "l0_coefficient": 5.0,
                "l0_warm_up_steps": num_steps,
            },
        ),
        "gated": (sae_lens.GatedTrainingSAEConfig, {"l1_coefficient": 5.0, "l1_warm_up_steps": num_steps // 20}),
        "standard": (sae_lens.StandardTrainingSAEConfig, {"l1_coefficient": 5.0, "l1_warm_up_steps": num_steps // 20}),
    }
    kind, own = kinds[architecture]
    return kind(**shared | own | changes)


class SAELens:
    """SAELens's ``SAETrainer``.

    Args:
        sae: its configuration, of :func:`saelens_config`.
        batches: rows as they were captured, without end; its scaling is measured on the first.
        shape: what is trained.
        num_steps: steps of the whole training.
        target_l0: L0 that the weight of the penalty is steered to; None: the weight stays.
        seed: of initialisation.
        **settings: of its trainer.
    """

    def __init__(
        self,
        sae: Any,
        batches: Iterator[Tensor],
        shape: Shape,
        num_steps: int,
        target_l0: float | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        from sae_lens.config import SAETrainerConfig
        from sae_lens.registry import get_sae_training_class
        from sae_lens.training.sae_trainer import SAETrainer

        torch.manual_seed(seed)
        config = SAETrainerConfig(
            total_training_samples=num_steps * shape.batch,
            train_batch_size_samples=shape.batch,
            device=sae.device,
            **{"lr": 3e-4, "lr_decay_steps": num_steps // 5} | settings,
        )
        config.lr_end = config.lr / 10 if config.lr_end is None else config.lr_end  # as its runner fills it in
        self.sae = get_sae_training_class(sae.architecture())[0](sae)
        self.trainer = SAETrainer(config, self.sae, batches)
        self.trainer.activation_scaler.estimate_scaling_factor(shape.d_in, batches, _NORM_BATCHES)
        self.silent_F = self.trainer.n_forward_passes_since_fired
        self._target_l0 = target_l0

    def step(self, x_TD: Tensor) -> None:
        """Train on a batch."""
        output = self.trainer.step(x_TD)
        self.trainer.n_training_steps += 1
        if self._target_l0 is not None:
            self._steer(float((output.feature_acts > 0).sum()) / len(x_TD) / self._target_l0)

    def reconstruct(self, x_ND: Tensor) -> Reconstruction:
        """Encode and decode."""
        scaler = self.trainer.activation_scaler
        acts_NF = self.sae.encode(scaler.scale(x_ND)).to_dense()
        return Reconstruction(scaler.unscale(self.sae.decode(acts_NF)), float((acts_NF > 0).sum()) / len(x_ND))

    def exported(self) -> Any:
        """The autoencoder as SAELens saves it for use, normalisation folded in, loaded again."""
        import sae_lens

        self.sae.fold_activation_norm_scaling_factor(self.trainer.activation_scaler.scaling_factor)
        with tempfile.TemporaryDirectory() as folder:
            self.sae.save_inference_model(folder)
            return sae_lens.SAE.load_from_disk(folder)

    def settled(self) -> None:
        """Stop steering, which costs a pass over the latents that is not SAELens's own."""
        self._target_l0 = None

    def _steer(self, excess: float) -> None:
        for scheduler in self.trainer.coefficient_schedulers.values():
            scheduler.final_value *= math.exp(_GAIN * max(-1.0, min(1.0, math.log(max(excess, 1e-3)))))


class Sparsify:
    """The step of sparsify's ``Trainer.fit``, with its default optimiser (signum, without a schedule)."""

    def __init__(self, shape: Shape, auxk_alpha: float = 0.0, device: str = "cpu") -> None:
        from schedulefree import ScheduleFreeWrapper
        from sparsify import SparseCoder, SparseCoderConfig
        from sparsify.sign_sgd import SignSGD

        torch.manual_seed(0)
        self.sae = SparseCoder(shape.d_in, SparseCoderConfig(num_latents=shape.width, k=shape.k), device, torch.float32)
        rate = 5e-3 / (shape.width / 2**14) ** 0.5
        self.optimiser = ScheduleFreeWrapper(SignSGD(self.sae.parameters(), lr=rate), momentum=0.95)
        self.optimiser.train()
        self.silent_F = torch.zeros(shape.width, dtype=torch.long, device=device)
        self._fired_F = torch.zeros(shape.width, dtype=torch.bool, device=device)
        self._auxk_alpha, self._first = auxk_alpha, True

    def step(self, x_TD: Tensor) -> None:
        """Train on a batch."""
        if self._first:
            self.sae.b_dec.data = x_TD.mean(dim=0)
            self._first = False
        self.sae.set_decoder_norm_to_unit_norm()
        dead_F = self.silent_F > 10_000_000 if self._auxk_alpha else None
        variance = (x_TD - x_TD.mean(dim=0)).pow(2).sum()
        out = self.sae(x=x_TD, y=x_TD, dead_mask=dead_F, total_variance=variance)
        self._fired_F[out.latent_indices.flatten()] = True
        float(out.fvu.detach())  # it keeps the mean of it as a number
        (out.fvu + self._auxk_alpha * out.auxk_loss + out.multi_topk_fvu / 8).backward()
        self.sae.remove_gradient_parallel_to_decoder_directions()
        self.optimiser.step()
        self.optimiser.zero_grad()
        with torch.no_grad():
            self.silent_F += len(x_TD)
            self.silent_F[self._fired_F] = 0
            self._fired_F.zero_()

    def reconstruct(self, x_ND: Tensor) -> Reconstruction:
        """Encode and decode."""
        self.optimiser.eval()
        out = self.sae(x_ND)
        self.optimiser.train()
        return Reconstruction(out.sae_out, float((out.latent_acts > 0).sum()) / len(x_ND))


class DictionaryLearning:
    """The ``update`` of one of dictionary_learning's trainers, on rows normalised as its ``trainSAE`` does."""

    def __init__(self, architecture: str, rows: MemoryRows, shape: Shape, num_steps: int, device: str = "cpu") -> None:
        from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
        from dictionary_learning.trainers.gdm import GatedSAETrainer
        from dictionary_learning.trainers.jumprelu import JumpReluTrainer
        from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
        from dictionary_learning.trainers.standard import StandardTrainerAprilUpdate
        from dictionary_learning.trainers.top_k import TopKTrainer

        groups = (0, *our_config("matryoshka", shape).nested_widths)  # type: ignore[attr-defined]
        fractions = [(stop - start) / shape.width for start, stop in zip(groups, groups[1:], strict=False)]
        penalty = {"sparsity_warmup_steps": num_steps // 10}
        kinds: dict[str, tuple[type, Mapping[str, Any]]] = {
            "topk": (TopKTrainer, {"k": shape.k}),
            "batchtopk": (BatchTopKTrainer, {"k": shape.k}),
            "matryoshka": (MatryoshkaBatchTopKTrainer, {"k": shape.k, "group_fractions": fractions}),
            "jumprelu": (JumpReluTrainer, {"target_l0": float(shape.k), **penalty}),
            "gated": (GatedSAETrainer, {"lr": 1e-3, **penalty}),
            "standard": (StandardTrainerAprilUpdate, penalty),
        }
        kind, own = kinds[architecture]
        torch.manual_seed(0)
        shared = {"steps": num_steps, "activation_dim": shape.d_in, "dict_size": shape.width, "device": device}
        names = {"layer": 0, "lm_name": "none", "warmup_steps": num_steps // 20}
        self.trainer = kind(**shared, **names, **own)
        self.silent_F = getattr(self.trainer, "num_tokens_since_fired", torch.zeros(shape.width, device=device))
        self._norm = float(rows.sample(16_384).square().sum(dim=1).mean().sqrt())
        self._step = 0

    def step(self, x_TD: Tensor) -> None:
        """Train on a batch."""
        self.trainer.update(self._step, x_TD / self._norm)
        self._step += 1

    def reconstruct(self, x_ND: Tensor) -> Reconstruction:
        """Encode and decode."""
        sae, x_ND = self.trainer.ae, x_ND / self._norm
        by_batch = {"use_threshold": False} if hasattr(sae, "threshold") and hasattr(sae, "k") else {}
        acts_NF = sae.encode(x_ND, **by_batch)
        return Reconstruction(sae.decode(acts_NF) * self._norm, float((acts_NF > 0).sum()) / len(x_ND))


def batches_of(rows_ND: Tensor, batch_rows: int) -> Iterator[Tensor]:
    """The rows a batch at a time, over and over, with no partial batch."""
    return cycle(rows_ND[: len(rows_ND) // batch_rows * batch_rows].split(batch_rows))


def superposition(num_rows: int, d_in: int, num_features: int = 8192, active: int = 24, seed: int = 0) -> Tensor:
    """Rows with sparse structure [N, D]: of more directions than there are dimensions, a few are in each row.

    How often each direction is drawn falls like one over its rank; sizes are exponential, and at least a half. All
    rows share a mean, as activations of language models do, and a little noise.

    Args:
        num_rows: N.
        d_in: D.
        num_features: directions there are.
        active: of them, how many are drawn for each row.
        seed: of everything.
    """
    generator = torch.Generator().manual_seed(seed)
    directions_GD = functional.normalize(torch.randn(num_features, d_in, generator=generator), dim=1)
    rates_G = 1 / torch.arange(10.0, num_features + 10)
    drawn_N = torch.multinomial(rates_G, num_rows * active, replacement=True, generator=generator)
    sizes_N = torch.empty(num_rows * active).exponential_(generator=generator) + 0.5
    shape = (num_rows, active)
    rows_ND = functional.embedding_bag(
        drawn_N.view(shape), directions_GD, per_sample_weights=sizes_N.view(shape), mode="sum"
    )
    rows_ND += torch.randn(d_in, generator=generator) * 0.2
    return rows_ND + torch.randn(num_rows, d_in, generator=generator) * 0.02
