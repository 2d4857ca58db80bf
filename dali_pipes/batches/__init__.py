"""From the table of samples to uint8 batches on a device.

In: a `SampleTable`.  Out: `Batch`es of letterboxed tiles and masks.
The only package that imports DALI.  It must not know about the model or the training.
"""
