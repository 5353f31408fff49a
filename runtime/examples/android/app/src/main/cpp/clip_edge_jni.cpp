// What org.clipedge.ClipEdge calls: a model, one session and one set of labels behind a handle.
#include <jni.h>

#include <clip_edge/clip_edge.hpp>
#include <optional>

namespace {

struct Classifier {
  explicit Classifier(clip_edge::Model model) : session(std::move(model)) {}
  clip_edge::Session session;
  std::optional<clip_edge::Prompts> prompts;
};

// Runs `body`; what it throws becomes a ClipEdgeException in Kotlin.
template <class Body>
auto guard(JNIEnv *env, Body body) -> decltype(body()) {
  const auto raise = [&](jint status, const char *text) {
    const jclass type = env->FindClass("org/clipedge/ClipEdgeException");
    const jmethodID make = env->GetMethodID(type, "<init>", "(ILjava/lang/String;)V");
    env->Throw(static_cast<jthrowable>(env->NewObject(type, make, status, env->NewStringUTF(text))));
  };
  try {
    return body();
  } catch (const clip_edge::Error &error) {
    raise(error.status(), error.what());
  } catch (const std::exception &error) {
    raise(CLIP_EDGE_ERROR_INTERNAL, error.what());
  }
  return {};
}

Classifier &classifier(jlong handle) { return *reinterpret_cast<Classifier *>(handle); }

// Kotlin hands text over as UTF-8 bytes: JNI's own strings are another encoding.
std::string text_of(JNIEnv *env, jbyteArray bytes) {
  std::string text(static_cast<size_t>(env->GetArrayLength(bytes)), '\0');
  env->GetByteArrayRegion(bytes, 0, static_cast<jsize>(text.size()), reinterpret_cast<jbyte *>(text.data()));
  return text;
}

clip_edge_model_options options_with(int threads, const std::string &engine) {
  clip_edge_model_options options;
  clip_edge_model_options_init(&options, sizeof(options));
  options.threads = threads;
  options.onnxruntime = engine.empty() ? nullptr : engine.c_str();
  return options;
}

const uint8_t *address(JNIEnv *env, jobject buffer) {
  return buffer == nullptr ? nullptr : static_cast<const uint8_t *>(env->GetDirectBufferAddress(buffer));
}

// The three planes of YUV_420_888: chroma lies in planes of its own, or interleaved as U,V or V,U.
clip_edge_image yuv_image(const uint8_t *y, const uint8_t *u, const uint8_t *v, int chroma_pixel_stride) {
  clip_edge_image image = clip_edge::image(y, 0, 0, CLIP_EDGE_PIXELS_I420);
  image.plane[1] = u, image.plane[2] = v;
  if (chroma_pixel_stride != 2) return image;
  if (v != u + 1 && u != v + 1)
    throw clip_edge::Error(CLIP_EDGE_ERROR_UNSUPPORTED, "chroma that is neither planar nor interleaved");
  image.format = v == u + 1 ? CLIP_EDGE_PIXELS_NV12 : CLIP_EDGE_PIXELS_NV21;
  image.plane[1] = v == u + 1 ? u : v;
  return image;
}

}  // namespace

#define CLIP_EDGE_JNI(type, name) extern "C" JNIEXPORT type JNICALL Java_org_clipedge_ClipEdge_##name

CLIP_EDGE_JNI(jlong, openFolder)(JNIEnv *env, jclass, jbyteArray path, jint threads, jbyteArray engine) {
  return guard(env, [&] {
    const std::string library = text_of(env, engine);
    const clip_edge_model_options options = options_with(threads, library);
    return reinterpret_cast<jlong>(new Classifier(clip_edge::Model(text_of(env, path), &options)));
  });
}

CLIP_EDGE_JNI(jlong, openArchive)
(JNIEnv *env, jclass, jint descriptor, jlong offset, jlong length, jint threads, jbyteArray engine) {
  return guard(env, [&] {
    const std::string library = text_of(env, engine);
    const clip_edge_model_options options = options_with(threads, library);
    return reinterpret_cast<jlong>(new Classifier(clip_edge::Model(descriptor, offset, length, &options)));
  });
}

CLIP_EDGE_JNI(void, free)(JNIEnv *, jclass, jlong handle) { delete reinterpret_cast<Classifier *>(handle); }

CLIP_EDGE_JNI(void, setLabels)(JNIEnv *env, jclass, jlong handle, jobjectArray labels, jbyteArray pattern) {
  guard(env, [&]() -> int {
    std::vector<std::string> names;
    for (jsize i = 0; i < env->GetArrayLength(labels); i++)
      names.push_back(text_of(env, static_cast<jbyteArray>(env->GetObjectArrayElement(labels, i))));
    classifier(handle).prompts = classifier(handle).session.prompts(names, {text_of(env, pattern)});
    return 0;
  });
}

CLIP_EDGE_JNI(jfloatArray, classifyYuv)
(JNIEnv *env, jclass, jlong handle, jint width, jint height, jobject y, jint y_stride, jobject u, jobject v,
 jint chroma_stride, jint chroma_pixel_stride, jint orientation) {
  return guard(env, [&]() -> jfloatArray {
    Classifier &self = classifier(handle);
    if (!self.prompts) throw clip_edge::Error(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "setLabels comes before classify");
    clip_edge_image image = yuv_image(address(env, y), address(env, u), address(env, v), chroma_pixel_stride);
    image.width = width, image.height = height, image.orientation = orientation;
    image.stride[0] = y_stride, image.stride[1] = image.stride[2] = chroma_stride;
    const std::vector<float> shares = self.session.classify(*self.prompts, image);
    const jfloatArray result = env->NewFloatArray(static_cast<jsize>(shares.size()));
    env->SetFloatArrayRegion(result, 0, static_cast<jsize>(shares.size()), shares.data());
    return result;
  });
}
