"""What a run was measured on."""

from __future__ import annotations

import os
import platform
from importlib import metadata

PACKAGES = (
    "embedwire",
    "aiohttp",
    "numpy",
    "orjson",
    "pybase64",
    "baseten-performance-client",
    "openai",
    "langchain-core",
    "langchain-openai",
    "llama-index-core",
    "llama-index-embeddings-openai-like",
    "uvloop",
    "xllamacpp",
)


def machine() -> dict[str, str]:
    """What it is, by the names of the table."""
    return {
        "CPU": f"{_cpu()}, {os.cpu_count()} cores",
        "system": f"{_system()}, {platform.machine()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": ", ".join(f"{name} {version}" for name in PACKAGES if (version := _version(name))),
    }


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo") as info:
            return next(line.partition(":")[2].strip() for line in info if line.startswith("model name"))
    except (FileNotFoundError, StopIteration):
        return platform.processor() or "unknown CPU"


def _system() -> str:
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        name = platform.system()
    return f"{name}, {platform.system()} {platform.release().partition('-')[0]}"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
