"""Released checkpoints and diffusers folders: read, write, convert."""
