// The positions in onnxruntime_slots.h against ONNX Runtime's own header. Built where that header is installed.
#include <onnxruntime_c_api.h>

#include <cstddef>

#include "onnxruntime_slots.h"

#define SAME_SLOT(name) \
  static_assert(offsetof(OrtApi, name) == clip_edge::core::k##name * sizeof(void *), #name " lies elsewhere")

SAME_SLOT(GetErrorMessage);
SAME_SLOT(CreateEnvWithCustomLogger);
SAME_SLOT(CreateSessionFromArray);
SAME_SLOT(Run);
SAME_SLOT(CreateSessionOptions);
SAME_SLOT(DisableCpuMemArena);
SAME_SLOT(SetIntraOpNumThreads);
SAME_SLOT(SetInterOpNumThreads);
SAME_SLOT(CreateTensorWithDataAsOrtValue);
SAME_SLOT(GetTensorMutableData);
SAME_SLOT(GetTensorElementType);
SAME_SLOT(GetTensorShapeElementCount);
SAME_SLOT(GetTensorTypeAndShape);
SAME_SLOT(CreateCpuMemoryInfo);
SAME_SLOT(ReleaseStatus);
SAME_SLOT(ReleaseSession);
SAME_SLOT(ReleaseValue);
SAME_SLOT(ReleaseTensorTypeAndShapeInfo);
SAME_SLOT(ReleaseSessionOptions);
SAME_SLOT(AddSessionConfigEntry);
static_assert(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT == 1 && ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32 == 6 &&
              ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 == 7 && ORT_LOGGING_LEVEL_WARNING == 2);

int main() { return 0; }
