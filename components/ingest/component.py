"""The ingest step as a KFP component."""

from kfp import dsl

from components.images import BATCH_IMAGE


@dsl.component(base_image=BATCH_IMAGE, install_kfp_package=False)
def ingest(
    tokenised_corpus: dsl.Output[dsl.Dataset],
    model: str = "demo",
    corpus: str = "python-docs",
    context_length: int = -1,
    max_tokens: int = 1500000,
    held_out_fraction: float = 0.1,
    text_column: str = "",
    label_column: str = "",
    task_column: str = "",
    store: str = "",
):
    """Read a corpus, tokenise it for a model and split it by document.

    Args:
        tokenised_corpus: Tokenised corpus, split by document.
        model: Language model: demo, a folder, an id on the model hub (NAME@REVISION), or subject/... in the store.
        corpus: Corpus: python-docs, a file, a folder, hf:NAME, or the name of an added corpus.
        context_length: Tokens in a sequence, special tokens included; -1: as the model takes, at most 512.
        max_tokens: Stop after about this many tokens; -1: read the whole corpus.
        held_out_fraction: Share of documents held out for evaluation.
        text_column: Column that holds the text; empty: found by name.
        label_column: Column that holds a label; empty: found by name, or none.
        task_column: Column that names the task; empty: found by name, or the file's name.
        store: Folder of the store; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio import steps

    done = steps.ingest(
        model=model,
        corpus=corpus,
        context_length=context_length,
        max_tokens=max_tokens,
        held_out_fraction=held_out_fraction,
        text_column=text_column,
        label_column=label_column,
        task_column=task_column,
        store=store,
    )
    done.write_to(tokenised_corpus)
