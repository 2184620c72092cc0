"""Vectors of texts and the relevance of documents, by engines and by upstreams."""
