"""The demo behind `make demo`: real documents, two frameworks, questions in two languages.

It starts the bundled local server as a process of its own, embeds the Universal Declaration of Human Rights in
English and in Korean through LangChain and through LlamaIndex, and asks each of them in both languages. Both
texts lie in one index, so the two best answers must be the same article, once in each language; where they are
not, the demo says so and ends with exit code 1.

    python examples/demo.py
    python examples/demo.py "What may the police not do?"    # your own questions, not checked
"""

# ruff: noqa: E402 - Ctrl-C is looked after before the imports that take seconds

import os
import re
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def stop(*_: object) -> None:
    os.write(2, b"Stopped.\n")
    os._exit(130)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, stop)

from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode

from embedwire import SharedEmbeddingClient
from embedwire.langchain import EmbedwireEmbeddings
from embedwire.llama_index import EmbedwireEmbedding

DOCUMENTS = Path(__file__).parent / "documents"
QUESTIONS = {  # and the number of the article that answers
    "Can I leave my country and come back?": 13,
    "내 나라를 떠났다가 돌아올 수 있나요?": 13,
    "Who may vote in elections?": 21,
    "누가 선거에서 투표할 수 있나요?": 21,
    "Is someone guilty before the trial?": 11,
    "재판을 받기 전에도 유죄인가요?": 11,
}
SHOWN = 3  # answers to each question
WIDTH = 80

Search = Callable[
    [str], list[tuple[str, float]]
]  # question → headings of the best articles, and their scores


def langchain(url: str, articles: dict[str, str]) -> Search:
    """A vector store."""
    documents = [Document(id=heading, page_content=text) for heading, text in articles.items()]
    store = InMemoryVectorStore.from_documents(documents, EmbedwireEmbeddings(base_url=url))

    def search(question: str) -> list[tuple[str, float]]:
        found = store.similarity_search_with_score(question, k=SHOWN)
        return [(str(document.id), score) for document, score in found]

    return search


def llama_index(url: str, articles: dict[str, str]) -> Search:
    """An index and its retriever."""
    nodes = [TextNode(id_=heading, text=text) for heading, text in articles.items()]
    index = VectorStoreIndex(nodes, embed_model=EmbedwireEmbedding(base_url=url))
    retriever = index.as_retriever(similarity_top_k=SHOWN)

    def search(question: str) -> list[tuple[str, float]]:
        return [(found.node_id, found.get_score()) for found in retriever.retrieve(question)]

    return search


def main() -> int:
    started = time.perf_counter()
    questions = dict.fromkeys(sys.argv[1:]) or QUESTIONS
    articles = read("declaration.en.txt") | read("declaration.ko.txt")
    wrong = 0
    with local_server() as url:
        with SharedEmbeddingClient(url) as client:
            server = client.wait_ready(timeout=60)
        title("Documents", "Universal Declaration of Human Rights, in English and Korean")
        title("Server", f"{server.model}, {server.dimensions} dimensions")
        title("", f"started in {since(started)}")
        for name, embed in ("LangChain", langchain), ("LlamaIndex", llama_index):
            begun = time.perf_counter()
            search = embed(url, articles)
            print()
            title(name, f"{len(articles)} articles embedded in {since(begun)}")
            begun = time.perf_counter()
            answers = {question: search(question) for question in questions}
            title("", f"{len(questions)} questions answered in {since(begun)}")
            for question, found in answers.items():
                wrong += not show(question, found, articles, questions[question])
    print()
    if wrong:
        print(
            f"{wrong} of {2 * len(questions)} answers are wrong: the article that answers was not found first."
        )
        return 1
    if questions is QUESTIONS:
        print(f"All {2 * len(questions)} answers are right: asked in either language, found in both.")
    print(f"Took {since(started)} from the start of the server to the last answer.")
    return 0


@contextmanager
def local_server() -> Iterator[str]:
    """The URL of `embedwire serve`, a process of its own on a free port, while the block runs."""
    command = [sys.executable, "-m", "embedwire", "serve", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:  # noqa: S603 - our own command
        try:
            said = ""
            for line in server.stderr or ():
                said += line
                if url := re.search(r"http://\S+", line):
                    break
            else:
                sys.exit(f"The local server did not start.\n{said}")
            yield url[0]
        finally:
            server.terminate()


def read(name: str) -> dict[str, str]:
    """The articles of a file: heading → text."""
    articles = (DOCUMENTS / name).read_text(encoding="utf-8").strip().split("\n\n")
    return dict(article.split("\n", 1) for article in articles)


# What the terminal shows


def show(question: str, found: list[tuple[str, float]], articles: dict[str, str], right: int | None) -> bool:
    """Prints a question and its answers, and tells whether the first two are the right article."""
    print(f"\n  {style(1, question)}")
    for place, (heading, score) in enumerate(found, 1):
        line = cut(f"{score:5.2f}  {pad(heading, 10)}  {articles[heading]}", WIDTH - 4)
        if right is None:
            print(f"    {line}")
        elif number(heading) == right:
            print(f"  {style(32, '✓')} {line}")
        else:
            print(f"  {style(31, '✗') if place < 3 else ' '} {style(2, line)}")
    return right is None or [number(heading) for heading, _ in found[:2]] == [right, right]


def title(name: str, words: str) -> None:
    print(style(1, f"{name:12}") + words)


def since(moment: float) -> str:
    seconds = time.perf_counter() - moment
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def number(heading: str) -> int:
    return int("".join(filter(str.isdigit, heading)))


def style(code: int, text: str) -> str:
    wanted = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return f"\x1b[{code}m{text}\x1b[0m" if wanted else text


def cells(char: str) -> int:
    """How wide a character stands in a terminal: Hangul takes two columns."""
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def pad(text: str, width: int) -> str:
    return text + " " * (width - sum(map(cells, text)))


def cut(text: str, width: int) -> str:
    """The text in one line of at most ``width`` columns."""
    line, left = "", width - 1  # one for the ellipsis
    for char in text.replace("\n", " "):
        left -= cells(char)
        if left < 0:
            return line + "…"
        line += char
    return line


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        sys.exit(130)
