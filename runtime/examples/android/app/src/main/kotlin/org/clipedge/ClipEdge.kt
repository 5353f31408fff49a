package org.clipedge

import java.nio.ByteBuffer

/** What a failed call throws: a status of clip_edge.h and the library's own text. */
class ClipEdgeException(val status: Int, message: String) : RuntimeException(message)

/** A bundle that tells how much a frame is of each label. One thread at a time; `close` gives the memory back. */
class ClipEdge private constructor(private var handle: Long) : AutoCloseable {
    /** Labels are embedded once; `{}` in the template stands for the label. */
    fun setLabels(labels: List<String>, template: String = "a photo of {}") =
        setLabels(handle, labels.map { it.toByteArray() }.toTypedArray(), template.toByteArray())

    /** The planes of a YUV_420_888 frame -> the probability of each label. `rotation`: degrees clockwise to upright. */
    fun classify(
        width: Int, height: Int, y: ByteBuffer, yStride: Int, u: ByteBuffer, v: ByteBuffer,
        chromaStride: Int, chromaPixelStride: Int, rotation: Int
    ): FloatArray = classifyYuv(
        handle, width, height, y, yStride, u, v, chromaStride, chromaPixelStride, EXIF.getValue(rotation)
    )

    override fun close() {
        free(handle)
        handle = 0
    }

    companion object {
        init {
            System.loadLibrary("clip_edge_jni")
        }

        private val EXIF = mapOf(0 to 1, 90 to 6, 180 to 3, 270 to 8)

        /** A bundle folder. `engine`: the path of ONNX Runtime; empty: the one in the app. */
        fun open(folder: String, threads: Int = 2, engine: String = "") =
            ClipEdge(openFolder(folder.toByteArray(), threads, engine.toByteArray()))

        /** A tar archive of a bundle folder inside of an open file, such as an asset. */
        fun open(descriptor: Int, offset: Long, length: Long, threads: Int = 2, engine: String = "") =
            ClipEdge(openArchive(descriptor, offset, length, threads, engine.toByteArray()))

        @JvmStatic private external fun openFolder(path: ByteArray, threads: Int, engine: ByteArray): Long
        @JvmStatic private external fun openArchive(
            descriptor: Int, offset: Long, length: Long, threads: Int, engine: ByteArray
        ): Long
        @JvmStatic private external fun free(handle: Long)
        @JvmStatic private external fun setLabels(handle: Long, labels: Array<ByteArray>, template: ByteArray)
        @JvmStatic private external fun classifyYuv(
            handle: Long, width: Int, height: Int, y: ByteBuffer, yStride: Int, u: ByteBuffer, v: ByteBuffer,
            chromaStride: Int, chromaPixelStride: Int, orientation: Int
        ): FloatArray
    }
}
