import CClipEdge
import CoreVideo
import Foundation
import ImageIO

/// A status of clip_edge.h and the library's own text.
public struct ClipEdgeError: Error, CustomStringConvertible {
    public let status: clip_edge_status
    public let description: String
}

private func check(_ status: clip_edge_status) throws {
    guard status != CLIP_EDGE_OK else { return }
    throw ClipEdgeError(status: status, description: String(cString: clip_edge_last_error()))
}

/// Tells how much a camera frame is of each label. One thread at a time.
public final class Classifier {
    public let labels: [String]
    private var model: OpaquePointer?
    private var session: OpaquePointer?
    private var prompts: OpaquePointer?

    /// A bundle folder, such as one that lies in the app: `Bundle.main.url(forResource: "bundle", withExtension: nil)`.
    public init(bundle: URL, labels: [String], template: String = "a photo of {}", threads: Int32 = 2) throws {
        self.labels = labels
        var options = clip_edge_model_options()
        clip_edge_model_options_init(&options, MemoryLayout.size(ofValue: options))
        options.threads = threads
        try check(clip_edge_model_open(bundle.path, &options, &model))
        try check(clip_edge_session_new(model, &session))
        try withCStrings(labels) { names in
            try withCStrings([template]) { templates in
                try check(clip_edge_prompts_new(session, names, labels.count, templates, 1, &prompts))
            }
        }
    }

    deinit {
        clip_edge_prompts_free(prompts)
        clip_edge_session_free(session)
        clip_edge_model_free(model)
    }

    /// The probability of each label. The buffer is BGRA, or 4:2:0 with interleaved chroma, as cameras give it.
    public func classify(_ frame: CVPixelBuffer, orientation: CGImagePropertyOrientation = .up) throws -> [Float] {
        CVPixelBufferLockBaseAddress(frame, .readOnly)
        defer { CVPixelBufferUnlockBaseAddress(frame, .readOnly) }
        var image = try view(of: frame)
        image.orientation = Int32(orientation.rawValue)
        var shares = [Float](repeating: 0, count: labels.count)
        try check(clip_edge_classify(session, prompts, &image, &shares, shares.count))
        return shares
    }

    /// The library's view of a locked buffer; nothing is copied.
    private func view(of frame: CVPixelBuffer) throws -> clip_edge_image {
        var image = clip_edge_image()
        clip_edge_image_init(&image, MemoryLayout.size(ofValue: image))
        image.width = Int32(CVPixelBufferGetWidth(frame))
        image.height = Int32(CVPixelBufferGetHeight(frame))
        switch CVPixelBufferGetPixelFormatType(frame) {
        case kCVPixelFormatType_32BGRA:
            image.format = CLIP_EDGE_PIXELS_BGRA
            image.plane.0 = UnsafePointer(CVPixelBufferGetBaseAddress(frame)?.assumingMemoryBound(to: UInt8.self))
            image.stride.0 = Int32(CVPixelBufferGetBytesPerRow(frame))
        case kCVPixelFormatType_420YpCbCr8BiPlanarFullRange, kCVPixelFormatType_420YpCbCr8BiPlanarVideoRange:
            let full = CVPixelBufferGetPixelFormatType(frame) == kCVPixelFormatType_420YpCbCr8BiPlanarFullRange
            image.format = CLIP_EDGE_PIXELS_NV12
            image.yuv = full ? CLIP_EDGE_YUV_BT601_FULL : CLIP_EDGE_YUV_BT709_LIMITED
            image.plane.0 = plane(0, of: frame)
            image.plane.1 = plane(1, of: frame)
            image.stride.0 = Int32(CVPixelBufferGetBytesPerRowOfPlane(frame, 0))
            image.stride.1 = Int32(CVPixelBufferGetBytesPerRowOfPlane(frame, 1))
        default:
            throw ClipEdgeError(status: CLIP_EDGE_ERROR_UNSUPPORTED, description: "a pixel format that is not known")
        }
        return image
    }

    private func plane(_ index: Int, of frame: CVPixelBuffer) -> UnsafePointer<UInt8>? {
        UnsafePointer(CVPixelBufferGetBaseAddressOfPlane(frame, index)?.assumingMemoryBound(to: UInt8.self))
    }
}

/// The texts as an array of C strings that lives during the call.
private func withCStrings<Result>(
    _ texts: [String], _ body: (UnsafePointer<UnsafePointer<CChar>?>) throws -> Result
) rethrows -> Result {
    let copies = texts.map { strdup($0) }
    defer { copies.forEach { free($0) } }
    return try copies.map { UnsafePointer($0) }.withUnsafeBufferPointer { try body($0.baseAddress!) }
}
