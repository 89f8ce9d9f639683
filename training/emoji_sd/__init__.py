"""Recipe of the built-in models ``builtin:emoji-sd``, ``builtin:emoji-clip`` and their judge.

Run ``python -m training.emoji_sd --help``. Every stage is a resumable leg: killed at any
moment, the same command goes on from its last checkpoint.

    fetch -> bank is drawn on the fly -> clip -> vae -> unet -> export -> evaluate
                                         classifier (independent of all the others)
"""
