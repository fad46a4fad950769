import sys

custom_imports = dict(imports=['crack_plugin'], allow_failed_imports=False)
default_scope = 'mmseg'
env_cfg = dict(
    cudnn_benchmark=True,
    # macOS' libraries do not outlive a fork; Windows has spawn alone, and is not asked
    mp_cfg=dict(mp_start_method='spawn' if sys.platform == 'darwin' else 'fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
randomness = dict(seed=42)
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    # MMEngine's CheckpointHook, never without a whole checkpoint.
    # IoUMetric's mIoU averages in the background; the crack's own IoU decides
    checkpoint=dict(type='AtomicCheckpointHook', interval=1, save_best='crack/IoU', rule='greater'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'),
    history=dict(type='HistoryHook'),
    prediction=dict(type='PredictionHook'),
    prompt_check=dict(type='PromptCheckHook'),
    reproducibility=dict(type='ReproducibilityHook'),
    non_finite_loss=dict(type='NonFiniteLossHook', on_nan='stop'),
    work_dir_lock=dict(type='WorkDirLockHook'),
)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='ContiguousSegVisualizer', vis_backends=vis_backends, name='visualizer')
# Training losses are averaged over the logged iterations; a validation's loss is a mean over its images already
log_processor = dict(by_epoch=True, mean_pattern=r'^(?!.*val_).*(loss|time|data_time|grad_norm)')
log_level = 'INFO'
load_from = None
resume = False
