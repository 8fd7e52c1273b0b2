"""The ingest step as a KFP component. Written by ``make components`` from its declaration: do not edit."""

from kfp import dsl

from components.images import BATCH_IMAGE


@dsl.component(base_image=BATCH_IMAGE, install_kfp_package=False)
def ingest(
    tokenised_corpus: dsl.Output[dsl.Dataset],
    summary: dsl.Output[dsl.Markdown],
    corpus: str = "python-docs",
    model: str = "demo",
    context_length: int = -1,
    max_tokens: int = 1500000,
    held_out_fraction: float = 0.1,
    text_column: str = "",
    label_column: str = "",
    task_column: str = "",
    ingest_settings: str = "",
    store: str = "",
):
    """Read a corpus, tokenise it, and split it by document.

    Args:
        tokenised_corpus: Sequences of token ids with their documents, split by document.
        summary: A page on it, for the dashboard to show.
        corpus: Corpus: python-docs (or some of its tasks: python-docs:prose,docstring), a file, a folder, hf:NAME,
            or the name of an added corpus.
        model: Language model: a folder, a GGUF file, an id on the hub (NAME@REVISION), demo, smollm2, or
            subject/... in the store.
        context_length: Most tokens in a sequence, special tokens included; -1: as the model takes, at most 512.
        max_tokens: Stop after the document that reaches this many tokens, special tokens not counted; -1: never.
        held_out_fraction: Fraction of the documents that only evaluation reads.
        text_column: Column with the text; empty: found by its name.
        label_column: Column with the label; empty: found by its name.
        task_column: Column with the task; empty: found by its name.
        ingest_settings: Other settings as JSON; mistudio ingest --parameters lists them.
        store: Store: a folder, or s3://bucket/prefix; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio import steps

    steps.own_process("ingest")
    done = steps.run_step(
        "ingest",
        corpus=corpus,
        model=model,
        context_length=None if context_length == -1 else context_length,
        max_tokens=None if max_tokens == -1 else max_tokens,
        held_out_fraction=held_out_fraction,
        text_column=text_column or None,
        label_column=label_column or None,
        task_column=task_column or None,
        ingest_settings=ingest_settings or None,
        store=store or None,
    )
    done.write_to(tokenised_corpus)
    done.write_summary_to(summary)
