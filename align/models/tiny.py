"""A small byte-level BPE tokenizer made on the spot, for the `tiny` model and for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CORPUS = (
    "The quick question is how to write a short answer that helps. You can say yes or no, and explain.",
    "I am sorry, but I cannot help with that. What is the best way to cook rice? Bring water to a boil.",
    "user assistant system Hello, how are you today? Thank you, I am well. Please tell me about the weather.",
    "A plan, a list and a note: first, second, third. It is a good idea to ask before you start.",
)


def build_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """Train it; the same size gives the same tokenizer. As in SmolLM2, pad is EOS, `<|im_end|>`.

    Args:
        vocab_size: Tokens, the 256 bytes and three special ones included; fewer come out where the corpus is
            exhausted.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<|endoftext|>",
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
    )
