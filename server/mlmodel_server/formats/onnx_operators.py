"""The operators that an ONNX model may use, by domain.

A test compares the lists with the schemas of the installed ``onnx``, so every new operator is a decision. Not in them:
``ImageDecoder``, which parses files of images, and the operators for training. Of Microsoft's own there are those that
its quantizer and optimizer write.
"""

from __future__ import annotations

_STANDARD = """
    Abs Acos Acosh Add AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization
    Bernoulli BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast CastLike
    CausalConvWithState Ceil Celu CenterCropPad Clip Col2Im Compress Concat ConcatFromSequence Constant ConstantOfShape
    Conv ConvInteger ConvTranspose Cos Cosh CumProd CumSum DFT DeformConv DepthToSpace DequantizeLinear Det Div Dropout
    DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gelu
    Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HammingWindow
    HannWindow HardSigmoid HardSwish Hardmax Identity If InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization
    LeakyRelu Less LessOrEqual LinearAttention Log LogSoftmax Loop LpNormalization LpPool MatMul MatMulInteger Max
    MaxPool MaxRoiPool MaxUnpool Mean MeanVarianceNormalization MelWeightMatrix Min Mish Mod Mul Multinomial Neg
    NegativeLogLikelihoodLoss NonMaxSuppression NonZero Not OneHot Optional OptionalGetElement OptionalHasElement Or
    PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear RMSNormalization RNN RandomNormal RandomNormalLike
    RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean
    ReduceMin ReduceProd ReduceSum ReduceSumSquare RegexFullMatch Relu Reshape Resize ReverseSequence RoiAlign
    RotaryEmbedding Round STFT Scan Scatter ScatterElements ScatterND Selu SequenceAt SequenceConstruct SequenceEmpty
    SequenceErase SequenceInsert SequenceLength SequenceMap Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax
    SoftmaxCrossEntropyLoss Softplus Softsign SpaceToDepth Split SplitToSequence Sqrt Squeeze StringConcat
    StringNormalizer StringSplit Sub Sum SwiGLU Swish Tan Tanh TensorScatter TfIdfVectorizer ThresholdedRelu Tile TopK
    Transpose Trilu Unique Unsqueeze Upsample Where Xor
"""
_LEARNING = """
    ArrayFeatureExtractor Binarizer CastMap CategoryMapper DictVectorizer FeatureVectorizer Imputer LabelEncoder
    LinearClassifier LinearRegressor Normalizer OneHotEncoder SVMClassifier SVMRegressor Scaler TreeEnsemble
    TreeEnsembleClassifier TreeEnsembleRegressor ZipMap
"""
_MICROSOFT = """
    BiasGelu DequantizeLinear DynamicQuantizeMatMul FastGelu FusedConv FusedGemm FusedMatMul Gelu MatMulInteger16
    MatMulIntegerToFloat QGemm QLinearAdd QLinearAveragePool QLinearConcat QLinearGlobalAveragePool QLinearLeakyRelu
    QLinearMul QLinearSigmoid QLinearSoftmax QuantizeLinear QuickGelu SkipLayerNormalization
"""

REFUSED = frozenset(("ImageDecoder",))
"""Operators of the standard domain that are not allowed."""

OPERATORS: dict[str, frozenset[str]] = {
    "": frozenset(_STANDARD.split()),
    "ai.onnx.ml": frozenset(_LEARNING.split()),
    "com.microsoft": frozenset(_MICROSOFT.split()),
}
"""The names of operators by domain; ``ai.onnx`` is another name of the domain ""."""

SIZED: dict[str, tuple[int, ...]] = {
    "AffineGrid": (1,), "BlackmanWindow": (0,), "CenterCropPad": (1,), "Col2Im": (1, 2), "ConstantOfShape": (0,),
    "DFT": (1,), "Expand": (1,), "HammingWindow": (0,), "HannWindow": (0,), "MaxUnpool": (2,),
    "MelWeightMatrix": (0, 1), "OneHot": (1,), "Pad": (1,), "Range": (0, 1, 2), "Resize": (1, 2, 3), "STFT": (1, 3),
    "Tile": (1,), "Upsample": (1,),
}  # fmt: skip
"""Operators whose output has as many elements as the *values* of these inputs say."""

DRAWN = frozenset(
    ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
)
"""Operators whose output is random, and so depends on more than their inputs."""

SAME_OR_LESS = frozenset(
    (
        "Cast", "Ceil", "Concat", "Div", "Floor", "Flatten", "Gather", "Identity", "Max", "Min", "Mod", "ReduceMax",
        "ReduceMin", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze",
    )
)  # fmt: skip
"""Operators on whole numbers whose result is at most the greatest number in their inputs."""

CHOSEN = frozenset(
    ("Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze")
)
"""Operators whose output has only numbers of their first input."""
