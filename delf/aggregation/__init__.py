"""Visual words: codebooks, VLAD, ASMK and ASMK*."""
