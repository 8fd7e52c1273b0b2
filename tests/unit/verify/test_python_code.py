"""Windows of the standard library with their labels, and probes on activations whose answer is known."""

import numpy as np
import torch

from mistudio.sae import TopKConfig, new_autoencoder
from mistudio.verify.python_code import Side, class_figures, file_windows, library_files
from mistudio.verify.python_labels import ASKED, CLASSES
from tests.support.tiny import tiny_tokenizer


def test_windows_of_a_file_are_whole_and_their_tokens_carry_the_labels_of_the_file() -> None:
    path = next(path for path in library_files() if path.name == "textwrap.py")
    source = path.read_text(encoding="utf-8")
    windows = list(file_windows(tiny_tokenizer(), source, np.random.default_rng(0)))
    assert len(windows) == 4
    for window in windows:
        assert len(window.ids) == len(window.labels_TC) == 127
        text = tiny_tokenizer().decode(window.ids)
        assert text in source
        assert window.labels_TC.any()


def test_a_file_that_is_no_python_gives_no_windows() -> None:
    assert not list(file_windows(tiny_tokenizer(), "def f(:\n" * 400, np.random.default_rng(0)))


def labelled_side(seed: int) -> Side:
    draw = np.random.default_rng(seed)
    labels_TC = draw.random((1500, len(CLASSES))) < 0.1
    acts_TD = np.concatenate([labels_TC, np.zeros((1500, 64 - len(CLASSES)))], axis=1)
    return Side(torch.from_numpy(acts_TD + 0.05 * draw.standard_normal(acts_TD.shape)).float(), labels_TC)


def test_latents_that_are_the_classes_tell_them_and_shuffled_labels_do_not() -> None:
    sae = new_autoencoder(TopKConfig(width=64, k=8), 64)
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(64))
        sae.W_dec.copy_(torch.eye(64))
    found = class_figures(sae, labelled_side(0), labelled_side(1), seed=0)
    assert set(ASKED) < set(found) == set(CLASSES)
    for figures in found.values():
        assert min(figures.dense, figures.many, figures.few, figures.group, figures.single) > 0.97
        assert abs(figures.shuffled - 0.5) < 0.1
