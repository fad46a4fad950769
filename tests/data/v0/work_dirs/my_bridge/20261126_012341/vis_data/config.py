custom_imports = dict(
    allow_failed_imports=False, imports=[
        'crack_plugin',
    ])
data_root = 'data/cracks'
dataset = dict(
    boxes='drop',
    class_map=dict(crack='crack'),
    data_root='data',
    missing_label='background')
default_hooks = dict(
    adapter_checkpoint=dict(type='AdapterCheckpointHook'),
    checkpoint=dict(
        interval=1,
        max_keep_ckpts=2,
        rule='greater',
        save_best='crack/IoU',
        type='AtomicCheckpointHook'),
    history=dict(type='HistoryHook'),
    logger=dict(interval=1, type='LoggerHook'),
    non_finite_loss=dict(on_nan='skip', type='NonFiniteLossHook'),
    param_scheduler=dict(type='ParamSchedulerHook'),
    prediction=dict(max_keep_epochs=2, type='PredictionHook'),
    prompt_check=dict(type='PromptCheckHook'),
    reproducibility=dict(type='ReproducibilityHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    timer=dict(type='IterTimerHook'),
    visualization=dict(type='SegVisualizationHook'),
    work_dir_lock=dict(type='WorkDirLockHook'))
default_scope = 'mmseg'
env_cfg = dict(
    cudnn_benchmark=True,
    dist_cfg=dict(backend='nccl'),
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
launcher = 'none'
load_from = None
log_level = 'INFO'
log_processor = dict(
    by_epoch=True, mean_pattern='^(?!.*val_).*(loss|time|data_time|grad_norm)')
model = dict(
    base='base',
    data_preprocessor=dict(
        bgr_to_rgb=True,
        mean=[
            127.5,
            127.5,
            127.5,
        ],
        pad_val=0,
        seg_pad_val=255,
        size_divisor=1,
        std=[
            127.5,
            127.5,
            127.5,
        ],
        type='SegDataPreProcessor'),
    lora=dict(
        lora_alpha=4,
        lora_dropout=0.1,
        r=2,
        target_modules=[
            'q_proj',
            'v_proj',
        ]),
    loss_decode=dict(type='ForegroundDiceLoss'),
    prompts=[
        'crack',
    ],
    test_cfg=dict(mode='whole'),
    threshold=0.49,
    type='SAM3TextLoRA')
optim_wrapper = dict(
    clip_grad=dict(max_norm=1.0),
    optimizer=dict(lr=0.01, type='AdamW', weight_decay=0.01),
    type='OptimWrapper')
param_scheduler = [
    dict(T_max=2, by_epoch=True, type='CosineAnnealingLR'),
]
randomness = dict(seed=42)
resume = False
test_cfg = dict(type='TestLoop')
test_dataloader = dict(
    batch_size=1,
    dataset=dict(
        boxes='drop',
        class_map=dict(crack='crack'),
        data_root='data',
        missing_label='background',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadYOLOPolygons'),
            dict(type='PackSegInputs'),
        ],
        split='valid',
        type='YOLOCrackDataset'),
    num_workers=0,
    persistent_workers=False,
    sampler=dict(shuffle=False, type='DefaultSampler'))
test_evaluator = dict(
    loss_decode=dict(type='ForegroundDiceLoss'), type='CrackMetric')
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadYOLOPolygons'),
    dict(type='PackSegInputs'),
]
train_cfg = dict(max_epochs=2, type='EpochBasedTrainLoop', val_interval=1)
train_dataloader = dict(
    batch_size=2,
    dataset=dict(
        boxes='drop',
        class_map=dict(crack='crack'),
        data_root='data',
        missing_label='background',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadYOLOPolygons'),
            dict(direction='horizontal', prob=0.5, type='RandomFlip'),
            dict(direction='vertical', prob=0.5, type='RandomFlip'),
            dict(type='PackSegInputs'),
        ],
        split='train',
        type='YOLOCrackDataset'),
    num_workers=0,
    persistent_workers=False,
    sampler=dict(shuffle=True, type='ResumableSampler'))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadYOLOPolygons'),
    dict(direction='horizontal', prob=0.5, type='RandomFlip'),
    dict(direction='vertical', prob=0.5, type='RandomFlip'),
    dict(type='PackSegInputs'),
]
tta_model = dict(type='SAM3TTAModel')
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        transforms=[
            [
                dict(prob=0.0, type='RandomFlip'),
                dict(direction='horizontal', prob=1.0, type='RandomFlip'),
                dict(direction='vertical', prob=1.0, type='RandomFlip'),
            ],
            [
                dict(type='LoadYOLOPolygons'),
            ],
            [
                dict(type='PackSegInputs'),
            ],
        ],
        type='TestTimeAug'),
]
val_cfg = dict(type='ValLoop')
val_dataloader = dict(
    batch_size=1,
    dataset=dict(
        boxes='drop',
        class_map=dict(crack='crack'),
        data_root='data',
        missing_label='background',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadYOLOPolygons'),
            dict(type='PackSegInputs'),
        ],
        split='valid',
        type='YOLOCrackDataset'),
    num_workers=0,
    persistent_workers=False,
    sampler=dict(shuffle=False, type='DefaultSampler'))
val_evaluator = dict(
    loss_decode=dict(type='ForegroundDiceLoss'), type='CrackMetric')
vis_backends = [
    dict(type='LocalVisBackend'),
]
visualizer = dict(
    name='visualizer',
    type='ContiguousSegVisualizer',
    vis_backends=[
        dict(type='LocalVisBackend'),
    ])
work_dir = 'work_dirs/my_bridge'
