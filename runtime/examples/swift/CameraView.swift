// Copy into an app that depends on the package and has NSCameraUsageDescription in its Info.plist.
import AVFoundation
import ClipEdge
import SwiftUI

/// Gives every frame of the back camera to the classifier, on one queue; frames that come too soon are dropped.
final class Camera: NSObject, ObservableObject, AVCaptureVideoDataOutputSampleBufferDelegate {
    @Published var words = ""
    private let capture = AVCaptureSession()
    private let queue = DispatchQueue(label: "clip-edge")
    private var classifier: Classifier?

    func start() {
        queue.async { [self] in
            do {
                classifier = try Classifier(
                    bundle: Bundle.main.url(forResource: "bundle", withExtension: nil)!,
                    labels: ["a cup", "a keyboard", "a plant", "a person"])
                guard let device = AVCaptureDevice.default(for: .video) else { return show("no camera") }
                let output = AVCaptureVideoDataOutput()
                output.setSampleBufferDelegate(self, queue: queue)
                capture.addInput(try AVCaptureDeviceInput(device: device))
                capture.addOutput(output)
                capture.startRunning()
            } catch { show("\(error)") }
        }
    }

    func captureOutput(_: AVCaptureOutput, didOutput sample: CMSampleBuffer, from _: AVCaptureConnection) {
        guard let classifier, let frame = CMSampleBufferGetImageBuffer(sample) else { return }
        do {
            let shares = try classifier.classify(frame, orientation: .right)  // held upright: the sensor lies on its side
            let best = shares.indices.max { shares[$0] < shares[$1] }!
            show("\(classifier.labels[best])  \(Int(100 * shares[best])) %")
        } catch { show("\(error)") }
    }

    private func show(_ text: String) { DispatchQueue.main.async { self.words = text } }
}

struct CameraView: View {
    @StateObject private var camera = Camera()
    var body: some View { Text(camera.words).font(.title).onAppear { camera.start() } }
}
