"""The classes that torch's packages of modules, optimizers and the like really define, of one torch version, without torch.

A prefix would not do: what a module imported from elsewhere can be named through it too
(``torch.distributed.checkpoint.utils.Stats`` is ``pstats.Stats``). ``pytest tests/formats/test_torch_classes.py
--overwrite`` writes the tables anew from the torch that is installed.
"""

from __future__ import annotations

TORCH = "2.13.0"
PACKAGES = [
    "torch.nn.modules", "torch.nn.parallel", "torch.nn.utils", "torch.ao.nn", "torch.ao.quantization", "torch.optim",
    "torch.distributed.checkpoint", "torch.distributed.tensor", "torch.distributed.device_mesh", "torch.distributed._shard",
    "torch.distributions", "torch.nested._internal",
]  # fmt: skip

# Where they lived in torches before: their modules are still there, and lead to the new ones.
_MOVED = {
    "torch.distributed._shard.checkpoint.": "torch.distributed.checkpoint.",
    "torch.distributed._tensor.": "torch.distributed.tensor.",
    "torch.nn.intrinsic.": "torch.ao.nn.intrinsic.",
    "torch.nn.qat.": "torch.ao.nn.qat.",
    "torch.nn.quantized.": "torch.ao.nn.quantized.",
    "torch.quantization.": "torch.ao.quantization.",
}


def kind_of(module: str, name: str) -> str:
    """``made`` for a class whose objects are made without calling it, ``called`` for an enum or exception, else ``""``."""
    for old, new in _MOVED.items():
        if f"{module}.".startswith(old):
            module = new[:-1] + module[len(old) - 1 :]
    if name in MADE.get(module, "").split():
        return "made"
    return "called" if name in CALLED.get(module, "").split() else ""


# What the tables hold: names by module. Objects of MADE are pickled by NEWOBJ and BUILD, which call no ``__init__``.
# -- written by the test --
MADE: dict[str, str] = {
    "torch.ao.nn.intrinsic.modules.fused":
        "BNReLU2d BNReLU3d ConvAdd2d ConvAddReLU2d ConvBn1d ConvBn2d ConvBn3d ConvBnReLU1d ConvBnReLU2d "
        "ConvBnReLU3d ConvReLU1d ConvReLU2d ConvReLU3d LinearBn1d LinearLeakyReLU LinearReLU LinearTanh "
        "_FusedModule",
    "torch.ao.nn.intrinsic.qat.modules.conv_fused":
        "ConvBn1d ConvBn2d ConvBn3d ConvBnReLU1d ConvBnReLU2d ConvBnReLU3d ConvReLU1d ConvReLU2d ConvReLU3d "
        "_ConvBnNd",
    "torch.ao.nn.intrinsic.qat.modules.linear_fused": "LinearBn1d",
    "torch.ao.nn.intrinsic.qat.modules.linear_relu": "LinearReLU",
    "torch.ao.nn.intrinsic.quantized.dynamic.modules.linear_relu": "LinearReLU",
    "torch.ao.nn.intrinsic.quantized.modules.bn_relu": "BNReLU2d BNReLU3d",
    "torch.ao.nn.intrinsic.quantized.modules.conv_add": "ConvAdd2d ConvAddReLU2d",
    "torch.ao.nn.intrinsic.quantized.modules.conv_relu": "ConvReLU1d ConvReLU2d ConvReLU3d",
    "torch.ao.nn.intrinsic.quantized.modules.linear_relu": "LinearLeakyReLU LinearReLU LinearTanh",
    "torch.ao.nn.qat.dynamic.modules.linear": "Linear",
    "torch.ao.nn.qat.modules.conv": "Conv1d Conv2d Conv3d _ConvNd",
    "torch.ao.nn.qat.modules.embedding_ops": "Embedding EmbeddingBag",
    "torch.ao.nn.qat.modules.linear": "Linear",
    "torch.ao.nn.quantizable.modules.activation": "MultiheadAttention",
    "torch.ao.nn.quantizable.modules.rnn": "LSTM LSTMCell _LSTMLayer _LSTMSingleLayer",
    "torch.ao.nn.quantized.dynamic.modules.conv":
        "Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d",
    "torch.ao.nn.quantized.dynamic.modules.linear": "Linear",
    "torch.ao.nn.quantized.dynamic.modules.rnn":
        "GRU GRUCell LSTM LSTMCell PackedParameter RNNBase RNNCell RNNCellBase",
    "torch.ao.nn.quantized.modules": "DeQuantize Quantize",
    "torch.ao.nn.quantized.modules.activation":
        "ELU Hardswish LeakyReLU MultiheadAttention PReLU ReLU6 Sigmoid Softmax",
    "torch.ao.nn.quantized.modules.batchnorm": "BatchNorm2d BatchNorm3d _BatchNorm",
    "torch.ao.nn.quantized.modules.conv":
        "Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d _ConvNd _ConvTransposeNd",
    "torch.ao.nn.quantized.modules.dropout": "Dropout",
    "torch.ao.nn.quantized.modules.embedding_ops": "Embedding EmbeddingBag EmbeddingPackedParams",
    "torch.ao.nn.quantized.modules.functional_modules": "FXFloatFunctional FloatFunctional QFunctional",
    "torch.ao.nn.quantized.modules.linear": "Linear LinearPackedParams",
    "torch.ao.nn.quantized.modules.normalization":
        "GroupNorm InstanceNorm1d InstanceNorm2d InstanceNorm3d LayerNorm",
    "torch.ao.nn.quantized.modules.rnn": "LSTM",
    "torch.ao.nn.quantized.modules.utils": "WeightedQuantizedModule",
    "torch.ao.nn.quantized.reference.modules.conv":
        "Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d _ConvNd _ConvTransposeNd",
    "torch.ao.nn.quantized.reference.modules.linear": "Linear",
    "torch.ao.nn.quantized.reference.modules.rnn": "GRU GRUCell LSTM LSTMCell RNNBase RNNCell RNNCellBase",
    "torch.ao.nn.quantized.reference.modules.sparse": "Embedding EmbeddingBag",
    "torch.ao.nn.quantized.reference.modules.utils": "ReferenceQuantizedModule",
    "torch.ao.nn.sparse.quantized.dynamic.linear": "Linear",
    "torch.ao.nn.sparse.quantized.linear": "Linear LinearPackedParams",
    "torch.ao.nn.sparse.quantized.utils": "LinearBlockSparsePattern",
    "torch.ao.quantization": "_DerivedObserverOrFakeQuantize",
    "torch.ao.quantization._correct_bias": "MeanShadowLogger",
    "torch.ao.quantization._learnable_fake_quantize": "_LearnableFakeQuantize",
    "torch.ao.quantization.backend_config._common_operator_config_utils": "_ConvMetadata",
    "torch.ao.quantization.backend_config.backend_config":
        "BackendConfig BackendPatternConfig DTypeConfig DTypeWithConstraints",
    "torch.ao.quantization.fake_quantize":
        "FakeQuantize FakeQuantizeBase FixedQParamsFakeQuantize FusedMovingAvgObsFakeQuantize",
    "torch.ao.quantization.fx._decomposed": "FakeQuantPerChannel",
    "torch.ao.quantization.fx._equalize":
        "EqualizationQConfig _InputEqualizationObserver _WeightEqualizationObserver",
    "torch.ao.quantization.fx._model_report.detector":
        "DetectorBase DetectorQConfigInfo DynamicStaticDetector InputWeightEqualizationDetector "
        "OutlierDetector PerChannelDetector",
    "torch.ao.quantization.fx._model_report.model_report": "ModelReport",
    "torch.ao.quantization.fx._model_report.model_report_observer": "ModelReportObserver",
    "torch.ao.quantization.fx._model_report.model_report_visualizer": "ModelReportVisualizer",
    "torch.ao.quantization.fx.custom_config":
        "ConvertCustomConfig FuseCustomConfig PrepareCustomConfig StandaloneModuleConfigEntry",
    "torch.ao.quantization.fx.fuse_handler": "DefaultFuseHandler FuseHandler",
    "torch.ao.quantization.fx.quantize_handler":
        "BatchNormQuantizeHandler BinaryOpQuantizeHandler CatQuantizeHandler ConvReluQuantizeHandler "
        "CopyNodeQuantizeHandler CustomModuleQuantizeHandler DefaultNodeQuantizeHandler "
        "EmbeddingQuantizeHandler FixedQParamsOpQuantizeHandler GeneralTensorShapeOpQuantizeHandler "
        "LinearReLUQuantizeHandler QuantizeHandler RNNDynamicQuantizeHandler StandaloneModuleQuantizeHandler",
    "torch.ao.quantization.fx.tracer": "ScopeContextManager",
    "torch.ao.quantization.fx.utils": "NodeInfo ObservedGraphModuleAttrs",
    "torch.ao.quantization.observer":
        "AffineQuantizedObserverBase FixedQParamsObserver Granularity HistogramObserver MinMaxObserver "
        "MovingAverageMinMaxObserver MovingAveragePerChannelMinMaxObserver NoopObserver ObserverBase PerAxis "
        "PerBlock PerChannelMinMaxObserver PerGroup PerRow PerTensor PerToken PlaceholderObserver "
        "RecordingObserver ReuseInputObserver UniformQuantizationObserverBase _PartialWrapper",
    "torch.ao.quantization.qconfig": "QConfig QConfigDynamic",
    "torch.ao.quantization.qconfig_mapping": "QConfigMapping",
    "torch.ao.quantization.stubs": "DeQuantStub QuantStub QuantWrapper",
    "torch.ao.quantization.utils": "MatchAllNode",
    "torch.distributed._shard.metadata": "ShardMetadata",
    "torch.distributed._shard.sharded_optim.api": "ShardedOptimizer",
    "torch.distributed._shard.sharded_tensor.api": "ShardedTensor ShardedTensorBase",
    "torch.distributed._shard.sharded_tensor.metadata": "ShardedTensorMetadata TensorProperties",
    "torch.distributed._shard.sharded_tensor.shard": "Shard",
    "torch.distributed._shard.sharder": "Sharder",
    "torch.distributed._shard.sharding_plan.api": "ShardingPlan ShardingPlanner",
    "torch.distributed._shard.sharding_spec.api":
        "DevicePlacementSpec EnumerableShardingSpec PlacementSpec ShardingSpec",
    "torch.distributed._shard.sharding_spec.chunk_sharding_spec": "ChunkShardingSpec",
    "torch.distributed.checkpoint._async_executor": "_AsyncCheckpointExecutor",
    "torch.distributed.checkpoint._async_process_executor":
        "_AsyncCheckpointRequest _CheckpointRequestIdentifier _ProcessBasedAsyncCheckpointExecutor "
        "_ProcessGroupInitInfo",
    "torch.distributed.checkpoint._async_thread_executor": "_ThreadBasedAsyncCheckpointExecutor",
    "torch.distributed.checkpoint._checkpointer": "_Checkpointer",
    "torch.distributed.checkpoint._consolidate_hf_safetensors": "_FqnData _InputFileData _OutputFileData",
    "torch.distributed.checkpoint._experimental.barriers":
        "Barrier BarrierConfig DistBarrier TCPStoreBarrier",
    "torch.distributed.checkpoint._experimental.checkpoint_process":
        "CheckpointProcess CheckpointProcessConfig WorkerRequest WorkerResponse",
    "torch.distributed.checkpoint._experimental.checkpoint_reader": "CheckpointReader",
    "torch.distributed.checkpoint._experimental.checkpoint_writer":
        "CheckpointWriter CheckpointWriterConfig WriterHook",
    "torch.distributed.checkpoint._experimental.checkpointer":
        "AsyncCheckpointer Checkpointer SyncCheckpointer",
    "torch.distributed.checkpoint._experimental.config": "CheckpointerConfig",
    "torch.distributed.checkpoint._experimental.staging":
        "CheckpointStager CheckpointStagerConfig DefaultStager",
    "torch.distributed.checkpoint._experimental.types": "RankInfo",
    "torch.distributed.checkpoint._extension":
        "Extension ExtensionRegistry StreamTransformExtension ZStandard",
    "torch.distributed.checkpoint._fsspec_filesystem": "FileSystem FsspecReader FsspecWriter",
    "torch.distributed.checkpoint._hf_utils": "_HFStorageInfo",
    "torch.distributed.checkpoint._pg_transport":
        "PGTransport _DTensorMeta _ShardedTensorMeta _StateDictMeta _TensorMeta",
    "torch.distributed.checkpoint._state_dict_stager": "StateDictStager",
    "torch.distributed.checkpoint.default_planner":
        "DefaultLoadPlanner DefaultSavePlanner _EmptyStateDictLoadPlanner",
    "torch.distributed.checkpoint.filesystem":
        "FileSystem FileSystemBase FileSystemReader FileSystemWriter _FileSystemWriter _OverlappingCpuLoader "
        "_SerialCpuLoader _StorageInfo _StoragePrefix _StorageReaderTransforms _StorageWriterTransforms "
        "_TensorLoader",
    "torch.distributed.checkpoint.format_utils": "BroadcastingTorchSaveReader DynamicMetaLoadPlanner",
    "torch.distributed.checkpoint.hf_storage": "HuggingFaceStorageReader HuggingFaceStorageWriter",
    "torch.distributed.checkpoint.metadata":
        "BytesStorageMetadata ChunkStorageMetadata Metadata MetadataIndex StorageMeta TensorProperties "
        "TensorStorageMetadata",
    "torch.distributed.checkpoint.optimizer": "_ReaderWithOffset",
    "torch.distributed.checkpoint.planner":
        "BytesIOWriteData LoadPlan LoadPlanner ReadItem SavePlan SavePlanner TensorWriteData WriteItem",
    "torch.distributed.checkpoint.quantized_hf_storage": "QuantizedHuggingFaceStorageReader",
    "torch.distributed.checkpoint.staging":
        "AsyncStager BlockingAsyncStager DefaultStager StagingOptions _ReplicationStager",
    "torch.distributed.checkpoint.state_dict": "StateDictOptions _EXTRA_STATE _StateDictInfo",
    "torch.distributed.checkpoint.state_dict_saver": "AsyncSaveResponse",
    "torch.distributed.checkpoint.stateful": "Stateful",
    "torch.distributed.checkpoint.storage": "StorageReader StorageWriter WriteResult",
    "torch.distributed.checkpoint.utils": "_DistWrapper",
    "torch.distributed.device_mesh": "DeviceMesh _MeshEnv",
    "torch.distributed.tensor": "DTensor",
    "torch.distributed.tensor._api": "_FromTorchTensor _ToTorchTensor",
    "torch.distributed.tensor._collective_utils": "MeshTopoInfo",
    "torch.distributed.tensor._decompositions": "DecompShardingStrategy PlacementTrackingMode",
    "torch.distributed.tensor._dispatch": "OpDispatcher",
    "torch.distributed.tensor._dtensor_spec": "DTensorSpec ShardOrderEntry TensorMeta",
    "torch.distributed.tensor._op_schema":
        "OpInfo OpSchema OpSpec OpStrategy OutputSharding RuntimeSchemaInfo StrategyType TupleStrategy",
    "torch.distributed.tensor._ops._einsum_strategy": "EinsumDims",
    "torch.distributed.tensor._ops._mask_buffer": "MaskBuffer",
    "torch.distributed.tensor._ops._math_ops": "NormReduction _NormPartial",
    "torch.distributed.tensor._ops._view_ops":
        "Broadcast ClaimedDim DimSpec Flatten InputDim NewDim Repeat Singleton Split _ViewShardingPropagator",
    "torch.distributed.tensor._ops.single_dim_strategy":
        "_PQEntry _PreparedSingleDimStrategy _ShardingPlaceholder _SingleDimStrategyInfo",
    "torch.distributed.tensor._random": "OffsetBasedRNGTracker _PhiloxState _RNGStateTracker",
    "torch.distributed.tensor._redistribute":
        "DTensorRedistributePlanner NestedRedistribute Redistribute _BackwardDtypeConfig _DtypeConfig "
        "_FlattenedTransformInfo _TransformInfo",
    "torch.distributed.tensor._sharding_prop": "LocalLRUCache ShardingPropagator",
    "torch.distributed.tensor._shards_wrapper": "LocalShardsWrapper",
    "torch.distributed.tensor._utils": "ExplicitRedistributionContext",
    "torch.distributed.tensor.debug": "CommDebugMode",
    "torch.distributed.tensor.debug._comm_mode": "_CommModeModuleTracker",
    "torch.distributed.tensor.experimental._context_parallel._attention":
        "_AllGatherRotater _AllToAllRotater _AttentionOp _ContextParallel _ContextParallelOptions "
        "_RingRotater _SDPAMerger",
    "torch.distributed.tensor.experimental._context_parallel._load_balancer":
        "_HeadTailLoadBalancer _LoadBalancer _PTRRLoadBalancer _PerDocumentHeadTailLoadBalancer",
    "torch.distributed.tensor.experimental._tp_transform": "_TensorParallelTransformPass",
    "torch.distributed.tensor.parallel.fsdp": "DTensorExtensions",
    "torch.distributed.tensor.parallel.style":
        "ColwiseParallel ParallelStyle PrepareModuleInput PrepareModuleInputOutput PrepareModuleOutput "
        "RowwiseParallel SequenceParallel",
    "torch.distributed.tensor.placement_types":
        "Partial Placement Replicate Shard _MaskPartial _StridedShard",
    "torch.distributions.bernoulli": "Bernoulli",
    "torch.distributions.beta": "Beta",
    "torch.distributions.binomial": "Binomial",
    "torch.distributions.categorical": "Categorical",
    "torch.distributions.cauchy": "Cauchy",
    "torch.distributions.chi2": "Chi2",
    "torch.distributions.constraint_registry": "ConstraintRegistry",
    "torch.distributions.constraints":
        "Constraint MixtureSameFamilyConstraint _Boolean _Cat _CorrCholesky _Dependent _DependentProperty "
        "_GreaterThan _GreaterThanEq _HalfOpenInterval _IndependentConstraint _IntegerGreaterThan "
        "_IntegerInterval _IntegerLessThan _Interval _LessThan _LowerCholesky _LowerTriangular _Multinomial "
        "_OneHot _PositiveDefinite _PositiveSemidefinite _Real _Simplex _Square _Stack _Symmetric",
    "torch.distributions.continuous_bernoulli": "ContinuousBernoulli",
    "torch.distributions.dirichlet": "Dirichlet _Dirichlet",
    "torch.distributions.distribution": "Distribution",
    "torch.distributions.exp_family": "ExponentialFamily",
    "torch.distributions.exponential": "Exponential",
    "torch.distributions.fishersnedecor": "FisherSnedecor",
    "torch.distributions.gamma": "Gamma",
    "torch.distributions.generalized_pareto": "GeneralizedPareto",
    "torch.distributions.geometric": "Geometric",
    "torch.distributions.gumbel": "Gumbel",
    "torch.distributions.half_cauchy": "HalfCauchy",
    "torch.distributions.half_normal": "HalfNormal",
    "torch.distributions.independent": "Independent",
    "torch.distributions.inverse_gamma": "InverseGamma",
    "torch.distributions.kl": "_Match",
    "torch.distributions.kumaraswamy": "Kumaraswamy",
    "torch.distributions.laplace": "Laplace",
    "torch.distributions.lkj_cholesky": "LKJCholesky",
    "torch.distributions.log_normal": "LogNormal",
    "torch.distributions.logistic_normal": "LogisticNormal",
    "torch.distributions.lowrank_multivariate_normal": "LowRankMultivariateNormal",
    "torch.distributions.mixture_same_family": "MixtureSameFamily",
    "torch.distributions.multinomial": "Multinomial",
    "torch.distributions.multivariate_normal": "MultivariateNormal",
    "torch.distributions.negative_binomial": "NegativeBinomial",
    "torch.distributions.normal": "Normal",
    "torch.distributions.one_hot_categorical": "OneHotCategorical OneHotCategoricalStraightThrough",
    "torch.distributions.pareto": "Pareto",
    "torch.distributions.poisson": "Poisson",
    "torch.distributions.relaxed_bernoulli": "LogitRelaxedBernoulli RelaxedBernoulli",
    "torch.distributions.relaxed_categorical": "ExpRelaxedCategorical RelaxedOneHotCategorical",
    "torch.distributions.studentT": "StudentT",
    "torch.distributions.transformed_distribution": "TransformedDistribution",
    "torch.distributions.transforms":
        "AbsTransform AffineTransform CatTransform ComposeTransform CorrCholeskyTransform "
        "CumulativeDistributionTransform ExpTransform IndependentTransform LowerCholeskyTransform "
        "PositiveDefiniteTransform PowerTransform ReshapeTransform SigmoidTransform SoftmaxTransform "
        "SoftplusTransform StackTransform StickBreakingTransform TanhTransform Transform _InverseTransform",
    "torch.distributions.uniform": "Uniform",
    "torch.distributions.utils": "_lazy_property_and_property lazy_property",
    "torch.distributions.von_mises": "VonMises",
    "torch.distributions.weibull": "Weibull",
    "torch.distributions.wishart": "Wishart",
    "torch.nested._internal.nested_int": "NestedIntNode",
    "torch.nested._internal.nested_tensor": "NestedTensor ViewBufferFromNested ViewNestedFromBuffer",
    "torch.nn.modules._functions": "BackwardHookFunction CrossMapLRN2d SyncBatchNorm",
    "torch.nn.modules.activation":
        "CELU ELU GELU GLU Hardshrink Hardsigmoid Hardswish Hardtanh LeakyReLU LogSigmoid LogSoftmax Mish "
        "MultiheadAttention PReLU RReLU ReLU ReLU6 SELU SiLU Sigmoid Softmax Softmax2d Softmin Softplus "
        "Softshrink Softsign Tanh Tanhshrink Threshold",
    "torch.nn.modules.adaptive": "AdaptiveLogSoftmaxWithLoss _ASMoutput",
    "torch.nn.modules.batchnorm":
        "BatchNorm1d BatchNorm2d BatchNorm3d LazyBatchNorm1d LazyBatchNorm2d LazyBatchNorm3d SyncBatchNorm "
        "_BatchNorm _LazyNormBase _NormBase",
    "torch.nn.modules.channelshuffle": "ChannelShuffle",
    "torch.nn.modules.container": "Container ModuleDict ModuleList ParameterDict ParameterList Sequential",
    "torch.nn.modules.conv":
        "Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d LazyConv1d LazyConv2d "
        "LazyConv3d LazyConvTranspose1d LazyConvTranspose2d LazyConvTranspose3d _ConvNd _ConvTransposeMixin "
        "_ConvTransposeNd _LazyConvXdMixin",
    "torch.nn.modules.distance": "CosineSimilarity PairwiseDistance",
    "torch.nn.modules.dropout":
        "AlphaDropout Dropout Dropout1d Dropout2d Dropout3d FeatureAlphaDropout _DropoutNd",
    "torch.nn.modules.flatten": "Flatten Unflatten",
    "torch.nn.modules.fold": "Fold Unfold",
    "torch.nn.modules.instancenorm":
        "InstanceNorm1d InstanceNorm2d InstanceNorm3d LazyInstanceNorm1d LazyInstanceNorm2d "
        "LazyInstanceNorm3d _InstanceNorm",
    "torch.nn.modules.lazy": "LazyModuleMixin _LazyProtocol",
    "torch.nn.modules.linear": "Bilinear Identity LazyLinear Linear NonDynamicallyQuantizableLinear",
    "torch.nn.modules.linear_cross_entropy": "_ChunkContext _ChunkViews",
    "torch.nn.modules.linear_cross_entropy_options": "LinearCrossEntropyOptions _AutoDefault",
    "torch.nn.modules.loss":
        "BCELoss BCEWithLogitsLoss CTCLoss CosineEmbeddingLoss CrossEntropyLoss GaussianNLLLoss "
        "HingeEmbeddingLoss HuberLoss KLDivLoss L1Loss LinearCrossEntropyLoss MSELoss MarginRankingLoss "
        "MultiLabelMarginLoss MultiLabelSoftMarginLoss MultiMarginLoss NLLLoss NLLLoss2d PoissonNLLLoss "
        "SmoothL1Loss SoftMarginLoss TripletMarginLoss TripletMarginWithDistanceLoss _Loss _WeightedLoss",
    "torch.nn.modules.module": "Module _IncompatibleKeys _WrappedHook",
    "torch.nn.modules.normalization": "CrossMapLRN2d GroupNorm LayerNorm LocalResponseNorm RMSNorm",
    "torch.nn.modules.padding":
        "CircularPad1d CircularPad2d CircularPad3d ConstantPad1d ConstantPad2d ConstantPad3d ReflectionPad1d "
        "ReflectionPad2d ReflectionPad3d ReplicationPad1d ReplicationPad2d ReplicationPad3d ZeroPad1d "
        "ZeroPad2d ZeroPad3d _CircularPadNd _ConstantPadNd _ReflectionPadNd _ReplicationPadNd",
    "torch.nn.modules.pixelshuffle": "PixelShuffle PixelUnshuffle",
    "torch.nn.modules.pooling":
        "AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d AdaptiveMaxPool1d AdaptiveMaxPool2d "
        "AdaptiveMaxPool3d AvgPool1d AvgPool2d AvgPool3d FractionalMaxPool2d FractionalMaxPool3d LPPool1d "
        "LPPool2d LPPool3d MaxPool1d MaxPool2d MaxPool3d MaxUnpool1d MaxUnpool2d MaxUnpool3d "
        "_AdaptiveAvgPoolNd _AdaptiveMaxPoolNd _AvgPoolNd _LPPoolNd _MaxPoolNd _MaxUnpoolNd",
    "torch.nn.modules.rnn": "GRU GRUCell LSTM LSTMCell RNN RNNBase RNNCell RNNCellBase",
    "torch.nn.modules.sparse": "Embedding EmbeddingBag",
    "torch.nn.modules.transformer":
        "Transformer TransformerDecoder TransformerDecoderLayer TransformerEncoder TransformerEncoderLayer",
    "torch.nn.modules.upsampling": "Upsample UpsamplingBilinear2d UpsamplingNearest2d",
    "torch.nn.parallel": "DistributedDataParallelCPU",
    "torch.nn.parallel._functions": "Broadcast Gather ReduceAddCoalesced Scatter",
    "torch.nn.parallel.data_parallel": "DataParallel",
    "torch.nn.parallel.distributed":
        "DistributedDataParallel _BucketCapacityConfig _BufferCommHook _DDPJoinHook _DDPSink _MixedPrecision",
    "torch.nn.utils._expanded_weights.conv_expanded_weights": "ConvPerSampleGrad",
    "torch.nn.utils._expanded_weights.embedding_expanded_weights": "EmbeddingPerSampleGrad",
    "torch.nn.utils._expanded_weights.expanded_weights_impl": "ExpandedWeight",
    "torch.nn.utils._expanded_weights.group_norm_expanded_weights": "GroupNormPerSampleGrad",
    "torch.nn.utils._expanded_weights.instance_norm_expanded_weights": "InstanceNormPerSampleGrad",
    "torch.nn.utils._expanded_weights.layer_norm_expanded_weights": "LayerNormPerSampleGrad",
    "torch.nn.utils._expanded_weights.linear_expanded_weights": "LinearPerSampleGrad",
    "torch.nn.utils._named_member_accessor": "NamedMemberAccessor",
    "torch.nn.utils.parametrizations": "_Orthogonal _SpectralNorm _WeightNorm",
    "torch.nn.utils.parametrize": "ParametrizationList",
    "torch.nn.utils.prune":
        "BasePruningMethod CustomFromMask Identity L1Unstructured LnStructured PruningContainer "
        "RandomStructured RandomUnstructured",
    "torch.nn.utils.rnn": "PackedSequence PackedSequence_",
    "torch.nn.utils.spectral_norm": "SpectralNorm SpectralNormLoadStateDictPreHook SpectralNormStateDictHook",
    "torch.nn.utils.weight_norm": "WeightNorm",
    "torch.optim": "Adafactor Muon",
    "torch.optim._stateless": "_GroupSwapinInfo",
    "torch.optim.adadelta": "Adadelta",
    "torch.optim.adagrad": "Adagrad",
    "torch.optim.adam": "Adam",
    "torch.optim.adamax": "Adamax",
    "torch.optim.adamw": "AdamW",
    "torch.optim.asgd": "ASGD",
    "torch.optim.lbfgs": "LBFGS",
    "torch.optim.lr_scheduler":
        "ChainedScheduler ConstantLR CosineAnnealingLR CosineAnnealingWarmRestarts CyclicLR ExponentialLR "
        "LRScheduler LambdaLR LinearLR MultiStepLR MultiplicativeLR OneCycleLR PolynomialLR ReduceLROnPlateau "
        "SequentialLR StepLR _LRScheduler _SchedulePhase _enable_get_lr_call _initial_mode",
    "torch.optim.nadam": "NAdam",
    "torch.optim.optimizer": "Optimizer _RequiredParameter",
    "torch.optim.radam": "RAdam",
    "torch.optim.rmsprop": "RMSprop",
    "torch.optim.rprop": "Rprop",
    "torch.optim.sgd": "SGD",
    "torch.optim.sparse_adam": "SparseAdam",
    "torch.optim.swa_utils": "AveragedModel SWALR",
}  # fmt: skip
CALLED: dict[str, str] = {
    "torch.ao.quantization.backend_config.backend_config": "ObservationType",
    "torch.ao.quantization.observer": "MappingType TorchAODType ZeroPointDomain",
    "torch.ao.quantization.quant_type": "QuantType",
    "torch.distributed._shard.sharded_tensor.metadata": "MEM_FORMAT_ENCODING",
    "torch.distributed.checkpoint._async_process_executor": "_CheckpointSaveProcessControlOpts",
    "torch.distributed.checkpoint._experimental.checkpoint_process": "RequestType",
    "torch.distributed.checkpoint.api": "CheckpointException",
    "torch.distributed.checkpoint.filesystem": "SerializationFormat",
    "torch.distributed.checkpoint.metadata": "_MEM_FORMAT_ENCODING",
    "torch.distributed.checkpoint.planner": "LoadItemType WriteItemType",
    "torch.distributed.checkpoint.state_dict_saver": "AsyncCheckpointerType",
    "torch.distributed.tensor._dtensor_spec": "_StridedShardNotDecodableError",
    "torch.distributed.tensor._ops._math_ops": "Reduction",
    "torch.distributed.tensor.experimental._context_parallel._attention":
        "_CausalBehavior _DispatchMode _RotateMethod",
    "torch.distributed.tensor.placement_types": "_StridedShardOffsetMode",
    "torch.nn.parallel.distributed": "_BufferCommHookLocation",
    "torch.nn.utils.parametrizations": "_OrthMaps",
}  # fmt: skip
