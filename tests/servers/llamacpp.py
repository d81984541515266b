"""llama.cpp's own HTTP server as a process of its own: ``python tests/servers/llamacpp.py --model PATH``.

It prints its URL on stdout when it is ready, and serves until stdin closes or it is terminated, so it never
outlives whoever started it. Its log goes to stderr. It listens on the loopback interface alone.

What a text that is too long gets, for the model of ``scripts/make_minilm_gguf.py``, which reads 512 tokens:

- 500 ``server_error``, "input (N tokens) is too large to process. increase the physical batch size", above
  ``--ubatch`` (512); this is looked at first, so it is what the defaults give;
- 400 ``exceed_context_size_error`` above a slot's context: with ``--ctx 256`` from 257 to 512 tokens, with
  ``--ubatch 2048`` for all above 512.

A slot's context is ``--ctx`` / ``--slots``, rounded up to a multiple of 256 and never above the model's;
without ``--ctx`` each slot has the model's. A ``--batch`` below ``--ubatch`` lowers that too.
"""

from __future__ import annotations

import argparse
import os
import sys

import xllamacpp

POOLINGS = {kind.name.rpartition("_")[2].lower(): kind for kind in xllamacpp.llama_pooling_type}


def main() -> None:
    """Serve until stdin closes."""
    arguments = _parser().parse_args()
    params = xllamacpp.CommonParams()
    params.model.path = arguments.model
    params.hostnames = ["127.0.0.1"]
    params.port = arguments.port
    params.embedding = arguments.embeddings
    params.pooling_type = POOLINGS[arguments.pooling]
    params.n_parallel = arguments.slots
    params.n_ctx = arguments.ctx
    params.n_batch = arguments.batch
    params.n_ubatch = arguments.ubatch
    params.api_keys = [arguments.api_key] if arguments.api_key else []
    params.endpoint_metrics = True
    params.warmup = arguments.embeddings  # without embeddings it would abort on a model that has nothing else
    params.cpuparams.n_threads = 1  # with more, threads that wait spin, and on a busy machine nothing moves
    params.cpuparams_batch.n_threads = 1
    os.environ["GGML_NO_BACKTRACE"] = "1"  # else an abort starts a debugger
    server = xllamacpp.Server(params)  # returns once the model is loaded
    print(server.listening_address, flush=True)
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os._exit(0)  # at once: a request still being computed must not hold the process


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="llama.cpp's HTTP server; serves until stdin closes.")
    parser.add_argument("--model", required=True, help="the GGUF file")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--slots", type=int, default=1, help="texts computed together")
    parser.add_argument(
        "--ctx",
        type=int,
        default=0,
        help="tokens of context, shared out among the slots; 0: the model's for each",
    )
    parser.add_argument("--batch", type=int, default=2048, help="tokens in one logical batch")
    parser.add_argument("--ubatch", type=int, default=512, help="tokens in one physical batch")
    parser.add_argument("--api-key", help="what requests must present; left out: nothing")
    parser.add_argument("--pooling", choices=POOLINGS, default="unspecified", help="unspecified: the model's")
    parser.add_argument("--embeddings", action=argparse.BooleanOptionalAction, default=True)
    return parser


if __name__ == "__main__":
    main()
