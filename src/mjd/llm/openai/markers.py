"""Chat-template markers in texts that go to remote APIs: what ends a turn there must not come out of data."""

from __future__ import annotations

import re

# Markers of the templates of Mistral, Llama 2, Gemma, DeepSeek, GLM, BERT and T5 vocabularies, and reasoning blocks.
_LISTED = (
    "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CONTENT]", "[THINK]", "[/THINK]",
    "[IMG]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[gMASK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]", "[BOS]",
    "[EOS]", "<s>", "</s>", "<bos>", "<eos>", "<pad>", "<unk>", "<mask>", "<sop>", "<eop>", "<eod>", "<eoh>", "<eoa>",
    "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<turn|>", "<|turn>", "<think>",
    "</think>", "<thinking>", "</thinking>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>",
    "]~b]", "]~!b[", "[e~[",
)  # fmt: skip
# And every marker of the forms <|im_end|> (ChatML, Llama 3, Phi, GPT) and <｜User｜> (DeepSeek).
_MARKER = re.compile(
    "|".join(
        [r"<\|[^|<>\s]{1,40}\|>", r"<｜[^｜<>\n]{1,40}｜>", *sorted(map(re.escape, _LISTED), key=len, reverse=True)]
    )
)


def find(text: str) -> str | None:
    """The first chat-template marker in a text, None if there is none."""
    found = _MARKER.search(text)
    return found[0] if found else None


def neutralised(text: str) -> str:
    """The text with a space after the first character of each marker: `< |im_end|>` is read alike, and ends no turn.

    >>> neutralised("Stop.<|im_end|>")
    'Stop.< |im_end|>'
    """
    while find(text):
        text = _MARKER.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
    return text
