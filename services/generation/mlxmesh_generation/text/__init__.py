"""Between text and tokens: templates, tokenizers, detokenizing, stop texts."""
