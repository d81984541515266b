"""What an argument is called here that somebody passes by habit, or has mistyped. Pure."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# Advice, and the arguments of OpenAIEmbeddings, AzureOpenAIEmbeddings, OpenAILikeEmbedding, OllamaEmbeddings and their
# like that it is for.
_ADVICE = {
    "pass base_url=": "openai_api_base api_base azure_endpoint endpoint url host server_url",
    "pass model=": "model_id model_uri engine deployment_name",
    "put it into the URL: base_url='https://host/openai/deployments/NAME?api-version=…'": (
        "deployment azure_deployment api_version openai_api_version openai_api_type"
    ),
    "put them into the URL: base_url='http://host/v1?name=value'": "default_query",
    "pass api_key=": "openai_api_key azure_ad_token token key",
    "pass api_key=, which may be a function too": "azure_ad_token_provider azure_ad_async_token_provider",
    "pass headers=": "default_headers header http_headers",
    "pass headers={'OpenAI-Organization': …}": "organization openai_organization",
    "pass timeout=": "request_timeout",
    "pass max_retries=RetryPolicy(base=…, cap=…)": "retry_min_seconds retry_max_seconds",
    "pass proxy=": "openai_proxy proxies",
    "pass headers=, ssl=, proxy= and timeout=; this client has connections of its own": (
        "http_client http_async_client async_http_client client async_client client_kwargs async_client_kwargs "
        "sync_client_kwargs reuse_client session"
    ),
    "pass batch_size=, or leave it out: it finds itself": "chunk_size embed_batch_size max_batch_size",
    "pass concurrency=, or leave it out: it finds itself": (
        "num_workers max_concurrent_requests max_concurrency max_workers"
    ),
    "pass encoding=": "encoding_format",
    "pass ssl=": "verify verify_ssl",
    "pass normalize=": "normalize_embeddings embed_normalize",
    "pass prompts=Prompts(query=…, document=…)": (
        "query_instruction text_instruction embed_instruction query_prefix document_prefix instruction"
    ),
    "pass extra_body={…}": (
        "model_kwargs additional_kwargs ollama_additional_kwargs extra_kwargs keep_alive num_ctx num_gpu num_thread "
        "mirostat mirostat_eta mirostat_tau repeat_last_n repeat_penalty temperature stop tfs_z top_k top_p truncate "
        "truncate_prompt_tokens user options"
    ),
    "pass extra_body=ByKind(query={…}, document={…})": "input_type task task_type mode",
    "leave it out: texts are sent as they are, never as token ids, and one that is too long fails alone": (
        "check_embedding_ctx_length embedding_ctx_length tiktoken_enabled tiktoken_model_name allowed_special "
        "disallowed_special"
    ),
    "leave it out: every text gets its vector": "skip_empty",
    "pass progress=True to embed() of a client": "show_progress_bar show_progress",
    "leave it out; wait_ready() asks the server": "validate_model_on_init validate_base_url",
}
_HABITS = {name: advice for advice, names in _ADVICE.items() for name in names.split()}


def advice(name: str, known: Iterable[str]) -> str:
    """What to do about an argument that there is not.

    Args:
        name: What was passed.
        known: The arguments that there are.
    """
    if name in _HABITS:
        return f"there is no argument {name!r} here; {_HABITS[name]}"
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"there is no argument {name!r} here" + (f"; did you mean {close[0]!r}?" if close else "")


def advised(door: Callable[P, T]) -> Callable[P, T]:
    """Says what an argument is called that ``door`` does not have, in the `TypeError` that Python would raise."""
    known = tuple(inspect.signature(door).parameters)

    @functools.wraps(door)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        for name in kwargs:
            if name not in known:
                raise TypeError(advice(name, known[1:]))
        return door(*args, **kwargs)

    return guarded
