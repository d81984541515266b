"""FastAPI: one client for the life of the application, shared by every request.

    pip install . fastapi uvicorn   # in a clone of the repository
    llama-server -m model.gguf --embeddings --port 8080
    uvicorn examples.fastapi_app:app

    curl localhost:8000/search --json '{"query": "What is kimchi?", "texts": ["A dish.", "A city."]}'

EMBEDWIRE_URL names a server elsewhere.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from embedwire import EmbeddingClient, InputError, RequestError, TextRefused


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    url = os.environ.get("EMBEDWIRE_URL", "http://localhost:8080")
    async with EmbeddingClient(url, normalize=True, deadline=30) as client:
        app.state.client = client
        yield


def the_client(request: Request) -> EmbeddingClient:
    client: EmbeddingClient = request.app.state.client
    return client


app = FastAPI(title="embedwire example", lifespan=lifespan)
Client = Annotated[EmbeddingClient, Depends(the_client)]


class Texts(BaseModel):
    """What to embed."""

    texts: list[str]


class Search(Texts):
    """What to embed, and what to look for in it."""

    query: str


class Hit(BaseModel):
    """A text, and how near it is to the query: 1 is the same direction."""

    text: str
    score: float


@app.post("/embed")
async def embed(body: Texts, client: Client) -> list[list[float]]:
    return await client.embed(body.texts)


@app.post("/search")
async def search(body: Search, client: Client) -> list[Hit]:
    """The texts, the one nearest to the query first."""
    query, matrix = await asyncio.gather(client.embed_query(body.query), client.embed_array(body.texts))
    hits = [Hit(text=text, score=score) for text, score in zip(body.texts, matrix @ query, strict=True)]
    return sorted(hits, key=lambda hit: hit.score, reverse=True)


@app.exception_handler(InputError)
@app.exception_handler(TextRefused)
async def not_embeddable(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, status_code=422)


@app.exception_handler(RequestError)
async def server_in_trouble(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, status_code=503)
