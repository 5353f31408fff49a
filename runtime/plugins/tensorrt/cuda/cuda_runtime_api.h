// All that TensorRT's headers name of CUDA's, so that the plug-in builds without a CUDA toolkit.
#pragma once

struct CUstream_st;
struct CUevent_st;
using cudaStream_t = CUstream_st *;
using cudaEvent_t = CUevent_st *;
