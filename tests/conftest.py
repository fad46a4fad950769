"""A tiny random SAM 3, small enough to run a step in milliseconds."""

import copy
from typing import Any

import pytest

TINY_SAM3: dict[str, Any] = {
    'vision_config': {
        'backbone_config': {
            'model_type': 'sam3_vit_model',
            'hidden_size': 32,
            'intermediate_size': 48,
            'num_hidden_layers': 2,
            'num_attention_heads': 2,
            'image_size': 56,
            'pretrain_image_size': 28,
            'patch_size': 14,
            'window_size': 2,
            'global_attn_indexes': [1],
        },
        'fpn_hidden_size': 16,
    },
    'text_config': {
        'model_type': 'clip_text_model',
        'vocab_size': 49408,
        'hidden_size': 16,
        'intermediate_size': 24,
        'projection_dim': 16,
        'num_hidden_layers': 2,
        'num_attention_heads': 2,
        'max_position_embeddings': 32,
        'hidden_act': 'gelu',
    },
    'geometry_encoder_config': {'hidden_size': 16, 'num_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 24},
    'detr_encoder_config': {'hidden_size': 16, 'num_layers': 2, 'num_attention_heads': 2, 'intermediate_size': 24},
    'detr_decoder_config': {
        'hidden_size': 16,
        'num_layers': 1,
        'num_attention_heads': 2,
        'intermediate_size': 24,
        'num_queries': 4,
    },
    'mask_decoder_config': {'hidden_size': 16, 'num_attention_heads': 2},
    # Larger than SAM 3's own 0.02, or the logits of so few layers hardly depend on the picture.
    'initializer_range': 0.2,
}


@pytest.fixture
def tiny_sam3() -> dict[str, Any]:
    """Overrides of ``Sam3Config`` for a random SAM 3 of 0.9 M parameters at 56 px."""
    return copy.deepcopy(TINY_SAM3)
