package org.clipedge

import android.Manifest
import android.os.Bundle
import android.widget.FrameLayout
import android.widget.TextView
import androidx.activity.ComponentActivity
import androidx.activity.result.contract.ActivityResultContracts
import androidx.camera.core.CameraSelector
import androidx.camera.core.ImageAnalysis
import androidx.camera.core.ImageProxy
import androidx.camera.core.Preview
import androidx.camera.lifecycle.ProcessCameraProvider
import androidx.camera.view.PreviewView
import java.util.concurrent.Executors

/** Shows the camera, and what it sees. The asset `bundle.tar` is the bundle. */
class MainActivity : ComponentActivity() {
    private val labels = listOf("a cup", "a keyboard", "a plant", "a person", "an empty room")
    private val worker = Executors.newSingleThreadExecutor()
    private var classifier: ClipEdge? = null // touched by the worker only
    private lateinit var preview: PreviewView
    private lateinit var text: TextView

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        preview = PreviewView(this)
        text = TextView(this).apply { textSize = 24f }
        setContentView(FrameLayout(this).apply { addView(preview); addView(text) })
        registerForActivityResult(ActivityResultContracts.RequestPermission()) { granted ->
            if (granted) start() else text.text = "no camera"
        }.launch(Manifest.permission.CAMERA)
    }

    private fun start() {
        val provider = ProcessCameraProvider.getInstance(this)
        provider.addListener({
            val analysis = ImageAnalysis.Builder()
                .setBackpressureStrategy(ImageAnalysis.STRATEGY_KEEP_ONLY_LATEST).build()
            analysis.setAnalyzer(worker) { frame -> frame.use { show(classify(it)) } }
            val shown = Preview.Builder().build().also { it.setSurfaceProvider(preview.surfaceProvider) }
            provider.get().bindToLifecycle(this, CameraSelector.DEFAULT_BACK_CAMERA, shown, analysis)
        }, mainExecutor)
    }

    private fun open(): ClipEdge = assets.openFd("bundle.tar").use { asset ->
        ClipEdge.open(asset.parcelFileDescriptor.fd, asset.startOffset, asset.length).also { it.setLabels(labels) }
    }

    private fun classify(frame: ImageProxy): String = try {
        val clip = classifier ?: open().also { classifier = it }
        val (y, u, v) = frame.planes
        val shares = clip.classify(
            frame.width, frame.height, y.buffer, y.rowStride, u.buffer, v.buffer, u.rowStride, u.pixelStride,
            frame.imageInfo.rotationDegrees
        )
        labels.zip(shares.asIterable()).maxByOrNull { it.second }!!.let { "${it.first}  ${(100 * it.second).toInt()} %" }
    } catch (problem: ClipEdgeException) {
        problem.message.orEmpty()
    }

    private fun show(words: String) = runOnUiThread { text.text = words }

    override fun onDestroy() {
        worker.execute { classifier?.close() }
        worker.shutdown()
        super.onDestroy()
    }
}
