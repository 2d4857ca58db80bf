"""From the table of samples to uint8 batches on a device.

In: a `SampleTable`. Out: `Batch`es of letterboxed tiles and masks.
The only package of dali_pipes that imports DALI. It must not import the model or the training.
"""
