"""Readers of weight files of unknown origin: TorchScript, .pth, safetensors."""
