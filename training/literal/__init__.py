"""The rankers as the papers print them, term by term, with the weights of a trained `Ranker`.

Nothing here is fast and nothing is trained: it is the reference beside which training's modules and the
serving graph are checked and timed. Each file is one unit of a paper. No product is split by halves, no
weight is merged into another or moved out of a sum; every projection is applied to every token.
"""
