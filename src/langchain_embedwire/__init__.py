"""Where LangChain's users look for an integration: the class of `embedwire.langchain`, by the ecosystem's name."""

from embedwire.langchain import EmbedwireEmbeddings

__all__ = ["EmbedwireEmbeddings"]
