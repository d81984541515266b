"""Where LlamaIndex's users look for an integration: the class of `embedwire.llama_index`, by the ecosystem's name.

The folders above belong to all who install something below `llama_index`: they have no `__init__.py`.
"""

from embedwire.llama_index import EmbedwireEmbedding

__all__ = ["EmbedwireEmbedding"]
