"""MIRA-Net in torch: network, guidance, losses, data, training, export.

Needs torch, lightning and numpy alone; safetensors and the ONNX packages are imported by the functions that use them.
"""
