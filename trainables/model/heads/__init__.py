"""The pooling heads: one file each, named as in `pooling.head`.

A file has a class `Head`, a `torch.nn.Module`:

    Head(config, input_size, num_layers)      config: `trainables.config.PoolingConfig`
    .output_size                              the width of its vectors
    .forward(states, mask)                    [batch, layers, tokens, dim] and [batch, tokens]
                                              to [batch, width]

The states have root mean square 1; with a token scope other than "all_tokens" there is one of each
layer, and the mask is true. A file may say more:

    READS              the sizes of the configuration that it uses
    LAYER_EMBEDDINGS   that a learned vector of each layer, at the start 0, is added to its states
    refuse             the faults of a design that this head cannot take, by field
"""
