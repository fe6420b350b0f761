"""The masks: one file each, named as in `attention.mask`.

A file says which query sees which key:

    def attends(query: Tokens, key: Tokens, layer: Layer) -> Bool[Tensor, "batch queries keys"]

`query` and `key` hold rows and columns of the attention matrix, so that an expression of their
fields broadcasts to it; padding is taken out afterwards. A file may say more:

    READS          the sizes of the configuration that it uses
    IS_CAUSAL      that transformers has this mask itself, under this value of `config.is_causal`
    LATENTS        that `settings.num_latents` learned vectors stand behind the text, to be read
    first_stream   the mask of a first pass, whose keys and values the pass under `attends` reads
    log_weight     what is added to the attention's logits, before the softmax
    variant        what tells the layers of one mask apart, if they differ
    refuse         the faults of a design that this mask cannot take, by field
"""
